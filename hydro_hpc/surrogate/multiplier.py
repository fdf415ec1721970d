"""The multiplier on an output layer's input, which keeps logits from growing with the width."""

from hydro_hpc.nn.multiplier import InputMultiplier, multiply_input

__all__ = ["InputMultiplier", "multiply_input"]
