"""Train the base model twice, by PyTorch and by its NumPy twin, and lay the loss curves over each other.

python -m scripts.twin --steps 300
"""

import argparse
import json
import statistics
from pathlib import Path

from scripts import toyworld
from scripts.pretrain import BATCH_SIZE, NUMPY_SCHEDULE, SHAPE, VOCAB_SIZE
from scripts.support.command_line import run
from scripts.support.run_directory import write_json
from scripts.support.terminal import table


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts.twin", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/twin"), help="written anew (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=300, help="2000 reach the demo's loss (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    from minigpt import TrainConfig
    from minigpt.corpus import Piece
    from scripts.support.plots import curves_figure
    from scripts.support.pretraining import prepare, pretrain

    schedule, logs, rows = NUMPY_SCHEDULE | {"steps": args.steps}, {}, []
    TrainConfig(**schedule)  # a bad number is refused before any work
    documents = [Piece(text) for text in toyworld.build(args.seed).documents]
    for backend in ("torch", "numpy"):
        directory = args.out / backend
        tok = prepare(documents, directory, VOCAB_SIZE, SHAPE["context_length"])
        _, result = pretrain(tok, directory, SHAPE, schedule, BATCH_SIZE, args.seed, backend=backend)
        logs[backend] = [json.loads(line) for line in (directory / "log.jsonl").read_text().splitlines()]
        seconds = statistics.median(row["seconds"] for row in logs[backend]) * args.steps
        rows.append([backend, result["val_loss"], result["tokens_per_second"], round(seconds)])
    table(["backend", "validation loss", "tokens/s", "seconds"], rows)
    apart = max(abs(a["loss"] - b["loss"]) for a, b in zip(*logs.values()))
    print(f"  the two curves are never further apart than {apart:.1e} nats")
    figure = curves_figure({name: [row["loss"] for row in log] for name, log in logs.items()})
    figure.savefig(args.out / "loss.png", dpi=110)
    columns = ["backend", "val_loss", "tokens_per_second", "seconds"]
    write_json(args.out / "results.json", {"apart": apart, "runs": [dict(zip(columns, row)) for row in rows]})
    print(f"  picture: {args.out}/loss.png")


if __name__ == "__main__":
    run(main)
