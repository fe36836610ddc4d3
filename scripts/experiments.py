"""Five questions that the lecture raises, each answered by a table and a picture, on the demo's base model and town.

python -m scripts.experiments replay
"""

import argparse
from pathlib import Path
from typing import NamedTuple

from scripts import finetune
from scripts.support.command_line import Parser, file_name, run, whole
from scripts.support.run_directory import locked, refuse_other_results, write_json
from scripts.support.terminal import table, visible


class Experiment(NamedTuple):
    """A question, the one setting that changes, what is measured, and what that says of the first and last row."""

    question: str
    setting: str
    values: list
    shares: list[str]  # of the questions asked; names in NAMES
    conclusion: str
    figure: str | None = None  # a measurement in another unit

    @property
    def columns(self) -> list[str]:
        return self.shares + ([self.figure] if self.figure else [])


EXPERIMENTS = {
    "demonstrations": Experiment(
        "How many demonstrations are needed? (S4)",
        "demonstrations", [10, 20, 40, 80, 160, 320, 640, 1280], ["exact", "unseen"],
        "{least} demonstrations answer {first[exact]:.0%} of the questions, {most} answer {last[exact]:.0%}.",
    ),
    "loss": Experiment(
        "Loss on the responses, or on everything? (S3, S5)",
        "loss on", ["response", "all"], ["exact", "unseen", "cloze"],
        "With the loss on everything, {last[exact]:.0%} of the answers are right, on the responses {first[exact]:.0%}.",
        "text_loss",
    ),
    "end": Experiment(
        "What does learning the end token do? (S3)",
        "end token", ["learnt", "not learnt"], ["exact", "starts", "stopped"],
        "Not learnt, it still ends {last[stopped]:.0%} of the answers: in pretraining it came after each document.\n"
        "  Other answers run on, and so {last[exact]:.0%} are right, with it {first[exact]:.0%}.",
        "tokens",
    ),
    "replay": Experiment(
        "Does a share of base documents keep it from forgetting? (S5)",
        "replay", [0.0, 0.05, 0.2], ["exact", "unseen", "cloze"],
        "With {most:.0%} of base documents the loss on base text is {last[text_loss]:.2f}, without any "
        "{first[text_loss]:.2f};\n  {last[exact]:.0%} of the answers are right, without any {first[exact]:.0%}.",
        "text_loss",
    ),
    "size": Experiment(
        "Does a larger base model answer better? (P6)",
        "layers × width", ["1 × 32", "2 × 64", "4 × 128"], ["knew", "exact", "unseen"],
        "The smallest knows {first[knew]:.0%} of the facts and answers {first[exact]:.0%} right, the largest "
        "{last[knew]:.0%} and {last[exact]:.0%}.",
        "text_loss_before",
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
    parser = Parser(__doc__, prog="scripts.experiments")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(EXPERIMENTS)} (default: all)")
    parser.add_argument("--base", default="base", help="the base model (default: the demo's)")
    parser.add_argument(
        "--world", type=file_name, default=Path("runs/demo/world"), help="its town (default: %(default)s)"
    )
    parser.add_argument("--out", type=file_name, default=Path("runs/experiments"), help="(default: %(default)s)")
    parser.add_argument("--steps", type=whole(1), default=finetune.SCHEDULE["steps"], help="(default: %(default)s)")
    parser.add_argument("--seed", type=whole(0), default=0, help="draws the order (default: %(default)s)")
    args = parser.parse_args()
    for name in args.names:
        if name not in EXPERIMENTS:
            raise ValueError(f"{name!r}: must be one of {', '.join(EXPERIMENTS)}")
    if not args.world.exists():
        raise FileNotFoundError(f"{args.world}: run `make demo` first")

    for name in args.names or EXPERIMENTS:
        refuse_other_results(args.out / name, "question")
    for name in args.names or EXPERIMENTS:
        with locked(args.out / name):
            perform(name, args)


def perform(name: str, args: argparse.Namespace) -> None:
    """Try each value of an experiment's setting; write what was found, draw it and show it."""
    from scripts.support.trial import trial

    experiment = EXPERIMENTS[name]
    directory = args.out / name
    print(f"\n{experiment.question}")
    shared = {"base": args.base, "world": args.world, "directory": directory, "seed": args.seed, "steps": args.steps}
    found = [trial(name, value, **shared) for value in experiment.values]

    rows = [{experiment.setting: value, **row} for value, row in zip(experiment.values, found)]
    write_json(directory / "results.json", {"question": experiment.question, "rows": rows})
    draw(experiment, found, directory / f"{name}.png")
    show(experiment, found)
    print(visible(f"  picture: {directory}/{name}.png"))


def show(experiment: Experiment, found: list[dict]) -> None:
    """Print a table, a row per value of the setting, what the models say where that is kept, and the conclusion."""
    from scripts.support.measuring.text_loss import told

    header = [experiment.setting, *(NAMES[column] for column in experiment.columns)]
    shown = lambda column, figure: told(figure) if column.startswith("text_loss") else figure
    rows = zip(experiment.values, found)
    table(header, [[str(value), *(shown(c, row[c]) for c in experiment.columns)] for value, row in rows])
    if experiment.figure == "text_loss":
        print(f"  (loss on base text before fine-tuning: {told(found[0]['text_loss_before'])})")
    for value, row in zip(experiment.values, found):
        if "says" in row:
            print(visible(f"  {value}: {' '.join(row['says'].split())}"))
    ends = {"least": experiment.values[0], "most": experiment.values[-1], "first": found[0], "last": found[-1]}
    print("  " + experiment.conclusion.format(**ends))


def draw(experiment: Experiment, found: list[dict], path: Path) -> None:
    from scripts.support.plots import experiment_figure, save_figure

    series = {NAMES[column]: [row[column] for row in found] for column in experiment.columns}
    before = found[0]["text_loss_before"] if experiment.figure == "text_loss" else None
    save_figure(experiment_figure(experiment, series, before), path)


if __name__ == "__main__":
    run(main)
