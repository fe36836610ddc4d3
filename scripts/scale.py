"""Where one machine ends (P4), measured: bytes per process of a small model's training, split and recomputed or not.

python -m scripts.scale --processes 2
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from scripts import sizes
from scripts.support.command_line import Parser, file_name, run, whole
from scripts.support.run_directory import locked, refuse_other_results, write_json
from scripts.support.terminal import table

SHAPE = {"vocab_size": 1024, "context_length": 128, "n_layers": 6, "n_heads": 6, "d_model": 384, "d_ff": 1024}
ROWS = 8  # of each batch, as long as the context
WAYS = {  # name: does each process hold a share only; are activations recomputed; is it run by one process
    "plain": (False, False, True),
    "recomputed": (False, True, True),
    "replicated": (False, False, False),
    "sharded": (True, False, False),
    "sharded, recomputed": (True, True, False),
}
PARTS = ["weights", "gradients", "moments", "activations"]


def main() -> None:
    args = parsed()
    if args.measure:
        measure_here(args.measure, args.out)
        return
    refuse_other_results(args.out, "processes")
    with locked(args.out):
        rows = {name: started(name, 1 if alone else args.processes) for name, (*_, alone) in WAYS.items()}
        write_json(args.out / "results.json", {"processes": args.processes, **rows})
    show(rows, args.processes)


def parsed() -> argparse.Namespace:
    parser = Parser(__doc__, prog="scripts.scale")
    parser.add_argument("--out", type=file_name, default=Path("runs/scale"), help="(default: %(default)s)")
    parser.add_argument("--processes", type=whole(2), default=2, help="that share the work (default: %(default)s)")
    parser.add_argument("--measure", choices=WAYS, help=argparse.SUPPRESS)  # what each process is started with
    return parser.parse_args()


def started(name: str, processes: int) -> dict[str, float]:
    """Start the processes of one way; the figures of the one that holds most."""
    with TemporaryDirectory() as directory:
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command = [sys.executable, *torchrun, "-m", "scripts.scale", "--measure", name, "--out", directory]
        done = subprocess.run(command, env={"OMP_NUM_THREADS": "1", **os.environ}, capture_output=True, text=True)
        if done.returncode:
            raise OSError(f"{name}: a process failed: {done.stderr.strip().splitlines()[-1:]}")
        found = [json.loads(path.read_text("utf-8")) for path in Path(directory).glob("*.json")]
    return max(found, key=lambda figures: sum(figures[part] for part in PARTS))


def measure_here(name: str, directory: Path) -> None:
    """One process's part: meet the others, measure, write the figures down."""
    from minigpt.fast import processes
    from scripts.support.torchrun import joined

    with joined("cpu", sharded=WAYS[name][0]):
        write_json(directory / f"{processes.rank()}.json", measure(name, SHAPE, ROWS))


def measure(name: str, shape: dict, rows: int) -> dict[str, float]:
    """Take one step, and say how many bytes each part of the training takes in this process, and how many seconds."""
    import torch

    from minigpt import GPT, Batch, GPTConfig, TrainConfig, TrainState, train
    from minigpt.fast import processes, sharded
    from minigpt.loop import summed_loss
    from scripts.support.measuring.memory import Live, bytes_here

    # build the model this way
    is_sharded, is_recomputed, _ = WAYS[name]
    torch.manual_seed(0)
    model = GPT(GPTConfig(**shape))
    if is_recomputed:
        sharded.recompute(model)
    if is_sharded:
        sharded.shard(model)

    # take a step: gradients and moments are there then
    ids = torch.randint(shape["vocab_size"], (rows, shape["context_length"]))
    state = TrainState()
    (step,) = train(model, lambda _: Batch(ids, ids), TrainConfig(steps=1), state)
    parameters = list(model.parameters())
    moments = state.moments.values()
    found = {"weights": bytes_here(parameters), "moments": bytes_here(moments), "seconds": step.seconds}
    found["gradients"] = bytes_here(parameter.grad for parameter in parameters)

    # compute a loss of this process's rows: what is still there then waits for the backward pass
    mine = ids[processes.rank() :: processes.size()]
    with Live() as live:
        loss = summed_loss(model, Batch(mine, mine), "fp32")
        found["activations"] = live.bytes()
    loss.backward()
    return found


def on_paper(shape: dict, rows: int) -> dict[str, float]:
    """What the parts take in fp32, by `make sizes`' formulas: nothing is measured here."""
    from minigpt import GPTConfig

    config = GPTConfig(**shape)
    N = sizes.parameters(config)
    activations = 2 * sizes.activation_bytes(config) * rows * shape["context_length"]  # fp32: twice those of bf16
    return {"weights": 4 * N, "gradients": 4 * N, "moments": 8 * N, "activations": activations}


def show(rows: dict[str, dict], processes: int) -> None:
    """Print the table, measured and on paper, and what can be read off it."""
    tell = lambda figures, unit: [f"{figures[part] / unit:>11,.1f}" for part in PARTS]
    counts = {name: 1 if alone else processes for name, (*_, alone) in WAYS.items()}
    shown = [[name, counts[name], *tell(row, 1e6), f"{row['seconds']:.1f}"] for name, row in rows.items()]
    shown.append(["plain, on paper", 1, *tell(on_paper(SHAPE, ROWS), 1e6), ""])
    print(f"  MB per process, one step of {ROWS} x {SHAPE['context_length']} tokens, fp32")
    table(["", "processes", *PARTS, "seconds"], shown)

    needed = sizes.training()
    llama = dict(zip(PARTS, needed.values()))
    print("\n  Llama 3 405B on paper (make sizes), GB per GPU; its moments count the weights in fp32 as well")
    split = {part: size / sizes.GPUS for part, size in llama.items()}
    table(["", "GPUs", *PARTS], [["plain", 1, *tell(llama, 1e9)], ["sharded", f"{sizes.GPUS:,}", *tell(split, 1e9)]])
    print(f"""
  Replicas share the batch, so only activations shrink. Shares shrink everything. Recomputing keeps what enters each
  block and computes the rest again. A GPU has {sizes.GPU_BYTES / 1e9:.0f} GB: the 405B model needs both, and more.""")


if __name__ == "__main__":
    run(main)
