"""A tiny model on DeepSpeed's pipeline engines; each rank prints the losses that it is told.

    deepspeed_engine.py pipeline|dualpipev,... STEPS WORK_MS

Two stages; with four processes there are two replicas, which train on the same data.
"""

from __future__ import annotations

import sys

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.pipe import LayerSpec, PipelineModule
from layers import Layer, microbatch, report

STEPS, WORK_MS = (int(text) for text in sys.argv[2:4])
MICROBATCHES = 4
EVALUATED_STEP = 5  # after it the model is evaluated once, between two steps


def build(name: str) -> deepspeed.PipelineEngine:
    module_class = PipelineModule if name == "pipeline" else deepspeed.pipe.DualPipeVModule
    model = module_class(
        [LayerSpec(Layer, seed, WORK_MS) for seed in range(4)],
        num_stages=2,
        loss_fn=torch.nn.functional.mse_loss,
        partition_method="uniform",
    )
    engine, *_ = deepspeed.initialize(
        model=model,
        model_parameters=list(model.parameters()),
        config={
            "train_micro_batch_size_per_gpu": 4,
            "gradient_accumulation_steps": MICROBATCHES,
            "optimizer": {"type": "Adam", "params": {"lr": 1e-3, "torch_adam": True}},
            "gradient_clipping": 1.0,
            "steps_per_print": 1_000_000_000,
        },
    )
    return engine


def train(engine: deepspeed.PipelineEngine) -> list[float]:
    data = (microbatch(number) for number in range(1_000_000))
    losses: list[float] = []
    for step in range(STEPS):
        losses.append(engine.train_batch(data_iter=data).item())
        if step == EVALUATED_STEP:
            losses.append(engine.eval_batch(data).item())
    return losses


def main() -> None:
    torch.set_num_threads(1)
    # Only inference uses this op, and without the line a CPU run would compile it for a minute.
    deepspeed.ops.__compatible_ops__ = {"deepspeed_shm_comm": False}
    deepspeed.init_distributed("gloo")
    losses: dict[str, list[float]] = {}
    for name in sys.argv[1].split(","):
        engine = build(name)
        losses[name] = train(engine)
    report(losses, stage=engine.stage_id, deepspeed=deepspeed.__version__.strip())
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
