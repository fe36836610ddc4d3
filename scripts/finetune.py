"""Fine-tuning: demonstrations -> a model that answers (S3 to S6).

python -m scripts.finetune --data mine.jsonl --base runs/demo/base --out runs/mine
"""

import argparse
from collections.abc import Iterable
from pathlib import Path

from scripts.common import open_model, read_corpus, refuse_existing, run, show_progress, table, write_json
from scripts.pretrain import LossLog

SCHEDULE = {"steps": 160, "lr": 5e-4, "weight_decay": 0.0, "precision": "auto"}
BATCH_SIZE = 32


def finetune(
    model, tok, examples, directory: Path, schedule: dict, batch_size: int, seed: int, loss_on="response", base="base"
):
    """Fine-tune the model in place, write it and its log into the directory; return it with the first and last loss.

    base: where it came from, which is noted in made_from.json, with the turns of the longest demonstration.
    """
    from minigpt import TrainConfig, save
    from sft import fine_tune

    directory.mkdir(parents=True, exist_ok=True)
    config, log, losses = TrainConfig(**schedule, seed=seed), LossLog(directory), []
    steps = fine_tune(model, tok, examples, config, batch_size=batch_size, loss_on=loss_on)
    for step in show_progress(steps, config.steps, "fine-tune"):
        log.add(step)
        losses.append(step.loss)
    save(directory, model.eval(), tok)
    turns = max(sum(message.role == "user" for message in example.messages) for example in examples)
    write_json(directory / "made_from.json", {"base": str(base), "turns": turns})
    log.plot()
    return model, {"first_loss": losses[0], "last_loss": losses[-1]}


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts.finetune", description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, type=Path, help="demonstrations, .jsonl or .json")
    parser.add_argument("--base", default="base", help="run directory of the base model (default: the demo's)")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/sft"), help="run directory to write (default: %(default)s)"
    )
    parser.add_argument("--overwrite", action="store_true", help="write over a model that is there")
    parser.add_argument("--corpus", nargs="*", default=[], help="the base model's text, to measure what is forgotten")
    parser.add_argument("--loss-on", default="response", help="response or all (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=BATCH_SIZE, help="examples a step (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    for name, value in SCHEDULE.items():
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=type(value), default=value, help="(default: %(default)s)"
        )
    args = parser.parse_args()
    from minigpt import evaluate
    from scripts.measure import as_question, continuations
    from sft import collate, encode_examples, read_examples

    refuse_existing(args.out, args.overwrite)
    examples = read_examples(args.data)
    corpus = read_corpus(args.corpus)
    model, tok = open_model(args.base)
    held_out = examples[-max(1, len(examples) // 10) :] if len(examples) > 1 else examples
    examples = examples[: -len(held_out)] or examples
    rows = encode_examples(tok, held_out, model.context_length)
    training = encode_examples(tok, examples, model.context_length, args.loss_on)  # errors come before any work
    print(f"  {args.base}: {len(examples):,} demonstrations to learn from, {len(held_out):,} held out")
    if training.truncated:
        cut = f"{training.truncated:,} are longer than the context of {model.context_length} and lose their end"
        print(f"  {cut}; {training.dropped:,} of them lose the whole response and are left out")

    def look() -> list:
        validation = [collate(rows, list(range(i, min(i + 32, len(rows.ids))))) for i in range(0, len(rows.ids), 32)]
        figures = [evaluate(model, validation)]
        if args.corpus:
            figures.append(corpus_loss(model, tok, corpus))
        first = [example.messages[0].content for example in held_out[:3]]
        return figures, continuations(model, tok, [as_question(tok, question) for question in first], 40)

    before, said_before = look()
    schedule = {name: getattr(args, name) for name in SCHEDULE}
    finetune(model, tok, examples, args.out, schedule, args.batch_size, args.seed, args.loss_on, args.base)
    after, said_after = look()
    names = ["loss on held-out responses", "loss on the base model's text"]
    table(["", "before", "after"], [[name, *pair] for name, *pair in zip(names, before, after)])
    for example, old, new in zip(held_out, said_before, said_after):
        print()
        for label, text in (("", example.messages[0].content), ("  before: ", old), ("  after:  ", new)):
            print(f"  {label}{' '.join(text.split())}")
    print(f"\n  in {args.out}: the model, log.jsonl, loss.png")


def corpus_loss(model, tok, documents: Iterable[str]) -> float:
    """The model's loss on the validation part of a corpus: what fine-tuning makes it forget shows here."""
    import tempfile

    from minigpt import all_batches, evaluate, read_tokens
    from minigpt.data import write_ids
    from scripts.pretrain import encode_pieces, split

    with tempfile.TemporaryDirectory() as aside:
        path = Path(aside) / "val.npy"
        write_ids(path, encode_pieces(tok, split(documents)[1], "val"), tok.vocab_size)
        return evaluate(model, all_batches(read_tokens(path), tok.end_id, model.context_length, 64))


if __name__ == "__main__":
    run(main)
