"""Five questions that the lecture raises, each answered by a table and a picture, on the demo's base model and town.

python -m scripts.experiments replay
"""

import argparse
from pathlib import Path
from typing import NamedTuple

from scripts import finetune
from scripts.support.command_line import run
from scripts.support.run_directory import write_json
from scripts.support.terminal import table


class Experiment(NamedTuple):
    """A question, the one setting that changes, and what is measured."""

    question: str
    setting: str
    values: list
    shares: list[str]  # of the questions asked; names in NAMES
    figure: str | None = None  # a measurement in another unit

    @property
    def columns(self) -> list[str]:
        return self.shares + ([self.figure] if self.figure else [])


EXPERIMENTS = {
    "demonstrations": Experiment(
        "How many demonstrations are needed? (S4)",
        "demonstrations", [10, 20, 40, 80, 160, 320, 640, 1280], ["exact", "unseen"],
    ),
    "loss": Experiment(
        "Loss on the responses, or on everything? (S3, S5)",
        "loss on", ["response", "all"], ["exact", "unseen", "cloze"], "text_loss",
    ),
    "end": Experiment(
        "What does learning the end token do? (S3)",
        "end token", ["learnt", "not learnt"], ["exact", "starts", "stopped"], "tokens",
    ),
    "replay": Experiment(
        "Does a share of base documents keep it from forgetting? (S5)",
        "replay", [0.0, 0.05, 0.2], ["exact", "unseen", "cloze"], "text_loss",
    ),
    "size": Experiment(
        "Does a larger base model answer better? (P6)",
        "layers × width", ["1 × 32", "2 × 64", "4 × 128"], ["knew", "exact", "unseen"], "text_loss_before",
    ),
}  # fmt: skip
NAMES = {  # of what is measured
    "exact": "right",
    "unseen": "right, other wordings",
    "starts": "begins correctly",
    "stopped": "ends by itself",
    "knew": "base fills a gap",
    "cloze": "still fills a gap",
    "tokens": "tokens per answer",
    "text_loss": "loss on base text",
    "text_loss_before": "base model's loss",
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts.experiments", description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(EXPERIMENTS)} (default: all)")
    parser.add_argument("--base", default="base", help="the base model (default: the demo's)")
    parser.add_argument("--world", type=Path, default=Path("runs/demo/world"), help="its town (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("runs/experiments"), help="(default: %(default)s)")
    parser.add_argument("--steps", type=int, default=finetune.SCHEDULE["steps"], help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="draws the order (default: %(default)s)")
    args = parser.parse_args()
    for name in args.names:
        if name not in EXPERIMENTS:
            raise ValueError(f"{name!r}: must be one of {', '.join(EXPERIMENTS)}")
    if not args.world.exists():
        raise FileNotFoundError(f"{args.world}: run `make demo` first")
    from scripts.support.trial import trial

    for name in args.names or EXPERIMENTS:
        experiment = EXPERIMENTS[name]
        directory = args.out / name
        directory.mkdir(parents=True, exist_ok=True)
        print(f"\n{experiment.question}")
        found = [
            trial(
                name,
                value,
                base=args.base,
                world=args.world,
                directory=directory,
                seed=args.seed,
                steps=args.steps,
            )
            for value in experiment.values
        ]
        show(experiment, found)
        draw(experiment, found, directory / f"{name}.png")
        rows = [{experiment.setting: value, **row} for value, row in zip(experiment.values, found)]
        write_json(directory / "results.json", {"question": experiment.question, "rows": rows})
        print(f"  picture: {directory}/{name}.png")


def show(experiment: Experiment, found: list[dict]) -> None:
    """Print a table, a row per value of the setting, and what the models say where an experiment keeps that."""
    header = [experiment.setting, *(NAMES[column] for column in experiment.columns)]
    table(header, [[str(value), *(row[c] for c in experiment.columns)] for value, row in zip(experiment.values, found)])
    if experiment.figure == "text_loss":
        print(f"  (loss on base text before fine-tuning: {found[0]['text_loss_before']:.3f})")
    for value, row in zip(experiment.values, found):
        if "says" in row:
            print(f"  {value}: {' '.join(row['says'].split())}")


def draw(experiment: Experiment, found: list[dict], path: Path) -> None:
    from scripts.support.plots import experiment_figure

    series = {NAMES[column]: [row[column] for row in found] for column in experiment.columns}
    before = found[0]["text_loss_before"] if experiment.figure == "text_loss" else None
    experiment_figure(experiment, series, before).savefig(path, dpi=110)


if __name__ == "__main__":
    run(main)
