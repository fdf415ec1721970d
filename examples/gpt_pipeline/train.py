"""Trains a byte-level GPT on Python's own source, pipeline-parallel, with DeepSpeed.

    torchrun --nproc-per-node 2 train.py            # two stages on this machine
    srun --ntasks 2 python train.py                 # the same under Slurm

The text is the `.py` files of the standard library that runs this script: nothing is downloaded.
Without a GPU the stages run on one CPU core each, over gloo. Equal arguments on equal machines give
equal losses, bit by bit: weights, data and order depend on --seed only, and every reduction has a
fixed order.

Shapes: B sequences of a microbatch, T bytes of a sequence, D width, H heads, V = 256 byte values.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported

import deepspeed
import torch
import torch.nn.functional as F
from deepspeed.accelerator import get_accelerator
from deepspeed.pipe import LayerSpec, PipelineModule
from torch import nn

VOCABULARY = 256
TEXT_BYTES = 4_000_000
SKIPPED_DIRECTORIES = {"site-packages", "dist-packages", "test", "tests", "__pycache__"}


class Embedding(nn.Module):
    """tokens_BT -> x_BTD: byte and position embeddings."""

    def __init__(self, width: int, seq: int, seed: int) -> None:
        torch.manual_seed(seed)
        super().__init__()
        self.token = nn.Embedding(VOCABULARY, width)
        self.position = nn.Embedding(seq, width)

    def forward(self, tokens_BT: torch.Tensor) -> torch.Tensor:
        positions_T = torch.arange(tokens_BT.shape[1], device=tokens_BT.device)
        x_BTD: torch.Tensor = self.token(tokens_BT) + self.position(positions_T)
        return x_BTD


class Block(nn.Module):
    """x_BTD -> x_BTD: causal attention, then a multilayer perceptron, each normalised first."""

    def __init__(self, width: int, heads: int, seed: int) -> None:
        torch.manual_seed(seed)
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp_in = nn.Linear(width, 4 * width)
        self.mlp_out = nn.Linear(4 * width, width)

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        x_BTD = x_BTD + self.attend(self.attention_norm(x_BTD))
        y_BTD: torch.Tensor = self.mlp_out(F.gelu(self.mlp_in(self.mlp_norm(x_BTD))))
        return x_BTD + y_BTD

    def attend(self, x_BTD: torch.Tensor) -> torch.Tensor:
        batch, seq, width = x_BTD.shape
        qkv = self.qkv(x_BTD).view(batch, seq, 3, self.heads, width // self.heads)
        q_BHTd, k_BHTd, v_BHTd = qkv.permute(2, 0, 3, 1, 4)
        y_BHTd = F.scaled_dot_product_attention(q_BHTd, k_BHTd, v_BHTd, is_causal=True)
        y_BTD: torch.Tensor = self.attention_out(y_BHTd.transpose(1, 2).reshape(batch, seq, width))
        return y_BTD


class Head(nn.Module):
    """x_BTD -> logits_BTV. Its weight is its own, not the embedding's."""

    def __init__(self, width: int, seed: int) -> None:
        torch.manual_seed(seed)
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, VOCABULARY, bias=False)

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        logits_BTV: torch.Tensor = self.out(self.norm(x_BTD))
        return logits_BTV


def loss_fn(logits_BTV: torch.Tensor, targets_BT: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten())


def build_model(args: argparse.Namespace) -> PipelineModule:
    """Every layer draws its weights from its own seed, so that they do not depend on the stages."""
    heads = max(1, args.width // 32)
    layers = [LayerSpec(Embedding, args.width, args.seq, args.seed)]
    layers += [LayerSpec(Block, args.width, heads, args.seed + 1 + i) for i in range(args.layers)]
    layers += [LayerSpec(Head, args.width, args.seed + 1 + args.layers)]
    model = PipelineModule(
        layers, num_stages=args.stages, loss_fn=loss_fn, partition_method="type:Block"
    )
    for parameter in model.parameters():
        parameter.model_parallel = True  # else gradient clipping sees the first stage's only
    return model


def read_text() -> torch.Tensor:
    """Returns the first TEXT_BYTES of the standard library's source, files in sorted order."""
    root = Path(sysconfig.get_paths()["stdlib"])
    chunks: list[bytes] = []
    size = 0
    for path in sorted(root.rglob("*.py")):
        if size >= TEXT_BYTES:
            break
        if not SKIPPED_DIRECTORIES.intersection(path.relative_to(root).parts):
            chunks.append(path.read_bytes())
            size += len(chunks[-1])
    return torch.frombuffer(bytearray(b"".join(chunks)[:TEXT_BYTES]), dtype=torch.uint8)


def microbatches(
    text: torch.Tensor, args: argparse.Namespace, *, first_step: int, replica: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yields (tokens_BT, targets_BT) for ever: a function of the seed, the step and the replica."""
    offsets_T = torch.arange(args.seq + 1)
    step = first_step
    while True:
        generator = torch.Generator().manual_seed(args.seed * 1_000_003 + step * 1_009 + replica)
        for _ in range(args.micro_batches):
            size = (args.micro_batch_size, 1)
            starts_B1 = torch.randint(len(text) - args.seq, size, generator=generator)
            window = text[starts_B1 + offsets_T].long().to(get_accelerator().current_device_name())
            yield window[:, :-1].contiguous(), window[:, 1:].contiguous()
        step += 1


def deepspeed_config(args: argparse.Namespace) -> dict[str, Any]:
    return {
        "train_micro_batch_size_per_gpu": args.micro_batch_size,
        "gradient_accumulation_steps": args.micro_batches,
        # torch's own Adam: DeepSpeed's would be compiled at the first start.
        "optimizer": {"type": "Adam", "params": {"lr": args.lr, "torch_adam": True}},
        "gradient_clipping": 1.0,
        "steps_per_print": 1_000_000_000,  # we print
    }


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
    data = microbatches(read_text(), args, first_step=engine.global_steps, replica=replica)
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
    parser.add_argument("--lr", type=float, default=1e-3, help="Adam's learning rate")
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
    args.stages = args.stages or int(os.environ["WORLD_SIZE"])
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
