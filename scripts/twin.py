"""Train the base model twice, by PyTorch and by its NumPy twin, and lay the loss curves over each other.

python -m scripts.twin --steps 300
"""

import argparse
import statistics
from pathlib import Path

from scripts import toyworld
from scripts.pretrain import BATCH_SIZE, NUMPY_SCHEDULE, SHAPE, VOCAB_SIZE
from scripts.support.command_line import Parser, file_name, run, whole
from scripts.support.run_directory import locked, read_rows, refuse_foreign, write_json
from scripts.support.terminal import table, visible


def main() -> None:
    parser = Parser(__doc__, prog="scripts.twin")
    parser.add_argument("--out", type=file_name, default=Path("runs/twin"), help="written anew (default: %(default)s)")
    parser.add_argument("--steps", type=whole(1), default=300, help="2000 reach the demo's loss (default: %(default)s)")
    parser.add_argument("--seed", type=whole(0), default=0)
    args = parser.parse_args()
    refuse_foreign(args.out, ["results.json", "loss.png", "torch", "numpy"], mark="torch/train.npy")
    with locked(args.out):
        train_both(args)


def train_both(args: argparse.Namespace) -> None:
    """Train with each backend, write both logs and their picture, and show how far apart they are."""
    from minigpt import TrainConfig
    from minigpt.corpus import Piece
    from scripts.support.measuring.text_loss import told
    from scripts.support.plots import curves_figure, save_figure
    from scripts.support.pretraining import prepare, pretrain

    schedule, logs, rows = NUMPY_SCHEDULE | {"steps": args.steps}, {}, []
    TrainConfig(**schedule)  # a bad number is refused before any work
    documents = [Piece(text) for text in toyworld.build(args.seed).documents]
    for backend in ("torch", "numpy"):
        directory = args.out / backend
        tok = prepare(documents, directory, VOCAB_SIZE, SHAPE["context_length"])
        _, result = pretrain(tok, directory, SHAPE, schedule, BATCH_SIZE, args.seed, backend=backend)
        logs[backend] = read_rows(directory / "log.jsonl")
        seconds = statistics.median(row["seconds"] for row in logs[backend]) * args.steps
        rows.append([backend, result["val_loss"], result["tokens_per_second"], round(seconds)])
    apart = max(abs(a["loss"] - b["loss"]) for a, b in zip(*logs.values()))
    figure = curves_figure({name: [row["loss"] for row in log] for name, log in logs.items()})
    save_figure(figure, args.out / "loss.png")
    columns = ["backend", "val_loss", "tokens_per_second", "seconds"]
    write_json(args.out / "results.json", {"apart": apart, "runs": [dict(zip(columns, row)) for row in rows]})
    shown = [[backend, told(loss), *others] for backend, loss, *others in rows]
    table(["backend", "validation loss", "tokens/s", "seconds"], shown)
    print(f"  the two curves are never further apart than {apart:.1e} nats")
    print(visible(f"  picture: {args.out}/loss.png"))


if __name__ == "__main__":
    run(main)
