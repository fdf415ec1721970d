"""Trains a byte-level GPT on Python's own source, pipeline-parallel, with DeepSpeed.

    torchrun --nproc-per-node 2 train.py            # two stages on this machine
    srun --ntasks 2 python train.py                 # the same under Slurm

The text is the `.py` files of the standard library that runs this script: nothing is downloaded.
Without a GPU the stages run on one CPU core each, over gloo. Equal arguments on equal machines give
equal losses, bit by bit: weights, data and order depend on --seed only, and every reduction has a
fixed order.

`gpt.py` has the model. Shapes: B sequences of a microbatch, T bytes of a sequence.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported

import deepspeed
import gpt
import torch
from deepspeed.accelerator import get_accelerator
from deepspeed.pipe import LayerSpec, PipelineModule

WEIGHT_DECAY = 0.01


def build_model(args: argparse.Namespace) -> PipelineModule:
    layers = gpt.layers(width=args.width, num_blocks=args.layers, seq=args.seq, seed=args.seed)
    model = PipelineModule(
        [LayerSpec(layer, *arguments) for layer, arguments in layers],
        num_stages=args.stages,
        loss_fn=gpt.loss_fn,
        partition_method="type:Block",
    )
    for parameter in model.parameters():
        parameter.model_parallel = True  # else gradient clipping sees the first stage's only
    return model


def microbatches(
    text: torch.Tensor, args: argparse.Namespace, *, first_step: int, replica: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yields (tokens_BT, targets_BT) for ever: a function of the seed, the step and the replica."""
    step = first_step
    while True:
        generator = torch.Generator().manual_seed(args.seed * 1_000_003 + step * 1_009 + replica)
        for _ in range(args.micro_batches):
            size = (args.micro_batch_size, 1)
            starts_B1 = torch.randint(len(text) - args.seq, size, generator=generator)
            tokens_BT, targets_BT = gpt.window_at(text, starts_B1, args.seq)
            device = get_accelerator().current_device_name()
            yield tokens_BT.to(device), targets_BT.to(device)
        step += 1


def deepspeed_config(args: argparse.Namespace) -> dict[str, Any]:
    """Ours, where the file of --deepspeed-config says nothing else."""
    own = {
        "train_micro_batch_size_per_gpu": args.micro_batch_size,
        "gradient_accumulation_steps": args.micro_batches,
        "optimizer": {
            "type": "AdamW",
            # torch's own: DeepSpeed's would be compiled at the first start.
            "params": {"lr": args.lr, "weight_decay": WEIGHT_DECAY, "torch_adam": True},
        },
        "gradient_clipping": 1.0,
        "steps_per_print": 1_000_000_000,  # we print
    }
    return own | (args.deepspeed_config or {})


def read_config(name: str) -> dict[str, Any]:
    """A DeepSpeed configuration, as `hydro transfer` writes one."""
    try:
        config = json.loads(Path(name).read_text(encoding="utf-8"))
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{name} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{name} is no JSON: {error}") from None
    if not isinstance(config, dict):
        raise argparse.ArgumentTypeError(f"{name} holds no JSON object, as {{}} is one")
    optimizer = config.get("optimizer", {"type": ""})
    if not isinstance(optimizer, dict) or "type" not in optimizer:
        raise argparse.ArgumentTypeError(f"{name}: its optimizer has no type, such as Adam")
    return config


def check_batch(args: argparse.Namespace, replicas: int) -> None:
    """Ends the program if the file of --deepspeed-config says other batches than the arguments."""
    micro_batches, size = args.micro_batches, args.micro_batch_size
    expected = {
        "train_batch_size": replicas * micro_batches * size,
        "train_micro_batch_size_per_gpu": size,
        "gradient_accumulation_steps": micro_batches,
    }
    for key, count in expected.items():
        given = (args.deepspeed_config or {}).get(key, count)
        if given != count:
            raise SystemExit(
                f"train.py: --deepspeed-config says {key} {given}, but --micro-batches "
                f"{micro_batches} of --micro-batch-size {size} on {replicas} replicas make it "
                f"{count}; change one of them"
            )


def set_rank_variables() -> None:
    """Under plain `srun`, says in torchrun's variables what Slurm says in its own."""
    if "RANK" in os.environ or "SLURM_PROCID" not in os.environ:
        return
    os.environ["RANK"] = os.environ["SLURM_PROCID"]
    os.environ["WORLD_SIZE"] = os.environ["SLURM_NTASKS"]
    os.environ["LOCAL_RANK"] = os.environ["SLURM_LOCALID"]
    nodes = os.environ.get("SLURM_STEP_NODELIST") or os.environ["SLURM_JOB_NODELIST"]
    os.environ.setdefault("MASTER_ADDR", first_node(nodes))
    port = 20_000 + int(os.environ["SLURM_JOB_ID"]) % 20_000
    os.environ.setdefault("MASTER_PORT", str(port))


def first_node(nodes: str) -> str:
    """Returns the first name of a Slurm node list such as `n[01-04,07],m1`."""
    return re.sub(r"\[([^],-]+)[^]]*\]", r"\1", re.split(r",(?![^[]*\])", nodes)[0])


def initialize(args: argparse.Namespace) -> deepspeed.PipelineEngine:
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    # Only inference uses this op, and without the line a CPU run would compile it for a minute.
    deepspeed.ops.__compatible_ops__ = {"deepspeed_shm_comm": False}
    deepspeed.init_distributed(get_accelerator().communication_backend_name())
    get_accelerator().set_device(int(os.environ["LOCAL_RANK"]))
    model = build_model(args)
    engine, *_ = deepspeed.initialize(
        model=model,
        model_parameters=[p for p in model.parameters() if p.requires_grad],
        config=deepspeed_config(args),
    )
    return engine


def train(
    engine: deepspeed.PipelineEngine, args: argparse.Namespace, losses: TextIO | None
) -> None:
    if args.checkpoint_dir:
        engine.load_checkpoint(args.checkpoint_dir)  # starts afresh if there is none
    replica = engine.grid.get_data_parallel_rank()
    data = microbatches(gpt.read_text(), args, first_step=engine.global_steps, replica=replica)
    tokens = engine.train_batch_size() * args.seq
    is_first = int(os.environ["RANK"]) == 0
    while engine.global_steps < args.steps:
        start = time.perf_counter()
        loss = engine.train_batch(data_iter=data).item()
        seconds = time.perf_counter() - start
        step = engine.global_steps
        if losses is not None:
            record = {"step": step, "loss": loss, "step_s": seconds}
            print(json.dumps(record), file=losses, flush=True)
        if is_first and (step % args.log_every == 0 or step == args.steps):
            print(f"step {step:5d}  loss {loss:.4f}  {tokens / seconds:,.0f} tokens/s", flush=True)
        if args.checkpoint_dir and args.save_every and step % args.save_every == 0:
            engine.save_checkpoint(args.checkpoint_dir)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--steps", type=int, default=200, help="optimizer steps in all")
    parser.add_argument("--stages", type=int, help="pipeline stages; by default one per process")
    parser.add_argument("--micro-batches", type=int, default=4, help="microbatches of a step")
    parser.add_argument("--micro-batch-size", type=int, default=4, help="sequences of a microbatch")
    parser.add_argument("--layers", type=int, default=4, help="transformer blocks, all stages")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--seq", type=int, default=128, help="bytes of a sequence")
    parser.add_argument("--lr", type=float, default=1e-3, help="AdamW's learning rate")
    parser.add_argument(
        "--deepspeed-config",
        type=read_config,
        metavar="FILE",
        help="JSON whose sections replace this script's own, the optimizer's with --lr too",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log-every", type=int, default=10, metavar="STEPS")
    parser.add_argument("--loss-file", type=Path, help="one JSON line per step, in full precision")
    parser.add_argument("--checkpoint-dir", type=Path, help="resume from here, and save here")
    parser.add_argument("--save-every", type=int, default=0, metavar="STEPS", help="0: never")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # older launchers pass it
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    set_rank_variables()
    world_size = int(os.environ["WORLD_SIZE"])
    args.stages = args.stages or world_size
    check_batch(args, replicas=world_size // args.stages)
    engine = initialize(args)
    if args.loss_file and int(os.environ["RANK"]) == 0:
        with args.loss_file.open("w", encoding="utf-8") as losses:
            train(engine, args, losses)
    else:
        train(engine, args, None)
    torch.distributed.barrier()  # who leaves first would break the others' connections
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
