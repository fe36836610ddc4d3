"""Five questions that the lecture raises, each answered by a table and a picture, from the demo's base model and town.

python -m scripts.experiments replay
"""

import argparse
from pathlib import Path
from typing import NamedTuple

from scripts import finetune, pretrain
from scripts.support import measure
from scripts.support.common import open_model, run, table, write_json


class Experiment(NamedTuple):
    """What is asked, which one setting changes and how, and what is looked at: shares, and a figure of another unit."""

    question: str
    setting: str
    values: list
    shares: list[str]
    figure: str | None = None


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
NAMES = {
    "exact": "right",
    "unseen": "right, other wordings",
    "starts": "begins rightly",
    "stopped": "ends by itself",
    "knew": "base fills a gap",
    "cloze": "still fills a gap",
    "tokens": "tokens an answer",
    "text_loss": "loss on base text",
    "text_loss_before": "base model's loss",
}


def trial(name: str, value, base: str, world: Path, directory: Path, seed: int, steps: int) -> dict:
    """Fine-tune the base model with one setting changed, and ask it about the held-out half of the town."""
    from minigpt import TrainConfig, train
    from sft import Message, encode_examples, example_batches, mix, read_examples

    model, tok = open_model(base)
    text = finetune.base_text(base, tok, [], directory)
    if not text:
        raise FileNotFoundError(f"{base}: train.npy and val.npy are missing; run `make demo` first")
    if name == "size":
        model = sized(value, model, tok, text, directory / value.replace(" ", ""), seed)
    questions = measure.read_questions(world / "questions.jsonl")
    found = {"text_loss_before": finetune.text_loss(model, tok, text[1], 64)}
    if name == "size":
        said = measure.continuations(model, tok, [measure.as_text(tok, questions[0]["cloze"])], 30)
        found |= {"knew": measure.cloze(model, tok, questions), "says": questions[0]["cloze"] + said[0]}

    examples = read_examples(world / "demonstrations.jsonl")[: value if name == "demonstrations" else None]
    rows = encode_examples(tok, examples, model.context_length, value if name == "loss" else "response")
    if value == "not learnt":
        unlearn(rows, tok.end_id)
    batch_size = finetune.BATCH_SIZE
    batches = example_batches(rows, batch_size, seed)
    if name == "replay" and value:
        replayed, documents = finetune.replay_batches(model, tok, text[0], value, batch_size, seed)
        batches = mix(example_batches(rows, batch_size - replayed, seed), documents)
    config = TrainConfig(**finetune.SCHEDULE | {"steps": steps}, seed=seed)
    for _ in train(model, batches, config):  # the one loop: an experiment changes nothing but its batches
        pass

    model.eval()
    said = finetune.answers(model, tok, [[Message("user", q["question"])] for q in questions], 40)
    texts = [finetune.spoken(tok, answer) for answer in said]
    shown, other = ([(text, q["answer"]) for text, q in zip(texts, questions) if q["phrasing_seen"] is seen]
                    for seen in (True, False))  # fmt: skip
    return found | {
        "exact": measure.share(text == answer for text, answer in shown),
        "unseen": measure.share(text == answer for text, answer in other),
        "starts": measure.share(text.startswith(answer) for text, answer in shown),
        "stopped": measure.share(answer.stop == "eos" for answer in said),
        "tokens": sum(len(answer.ids) for answer in said) / len(said),
        "cloze": measure.cloze(model, tok, questions),
        "text_loss": finetune.text_loss(model, tok, text[1], 64),
    }


def unlearn(rows, id: int) -> None:
    """Take one token out of what is learnt, wherever it stands."""
    for ids, learn in zip(rows.ids, rows.learn):
        learn[:] = [learnt and i != id for i, learnt in zip(ids, learn)]


def sized(value: str, model, tok, text: list, directory: Path, seed: int):
    """A base model of another size, pretrained by the demo's recipe on the demo's text; it is made once and kept."""
    import numpy as np

    from minigpt import load

    layers, width = map(int, value.split(" × "))
    if (layers, width) == (model.config.n_layers, model.config.d_model):
        return model
    if not (directory / "config.json").exists():
        directory.mkdir(parents=True, exist_ok=True)
        for part, tokens in zip(("train", "val"), text):
            np.save(directory / f"{part}.npy", tokens)
        shape = pretrain.SHAPE | {"n_layers": layers, "d_model": width, "n_heads": width // 32, "d_ff": 11 * width // 4}
        pretrain.pretrain(tok, directory, shape, pretrain.SCHEDULE, pretrain.BATCH_SIZE, seed)
    return load(directory)[0]


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
    from scripts.support.plots import experiment_figure

    for name in args.names or EXPERIMENTS:
        experiment, directory = EXPERIMENTS[name], args.out / name
        directory.mkdir(parents=True, exist_ok=True)
        print(f"\n{experiment.question}")
        found = [
            trial(name, value, args.base, args.world, directory, args.seed, args.steps) for value in experiment.values
        ]
        columns = [*experiment.shares, *filter(None, [experiment.figure])]
        header = [experiment.setting, *(NAMES[column] for column in columns)]
        table(header, [[str(value), *(row[c] for c in columns)] for value, row in zip(experiment.values, found)])
        if experiment.figure == "text_loss":
            print(f"  (loss on base text before fine-tuning: {found[0]['text_loss_before']:.3f})")
        for value, row in zip(experiment.values, found):
            if "says" in row:
                print(f"  {value}: {' '.join(row['says'].split())}")
        series = {NAMES[column]: [row[column] for row in found] for column in columns}
        before = found[0]["text_loss_before"] if experiment.figure == "text_loss" else None
        figure = experiment_figure(experiment, series, before)
        figure.savefig(directory / f"{name}.png", dpi=110)
        rows = [{experiment.setting: value, **row} for value, row in zip(experiment.values, found)]
        write_json(directory / "results.json", {"question": experiment.question, "rows": rows})
        print(f"  picture: {directory}/{name}.png")


if __name__ == "__main__":
    run(main)
