"""Pipeline engines as they are released, run over gloo with the hooks on and off.

This folder mirrors no package: it holds what docs/engines.md says about engines. `scripts/` are
training scripts that know nothing of us; `deepspeed_facts/` is what we rely on in releases of
DeepSpeed, read from their sources.
"""
