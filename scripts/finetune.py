"""Fine-tuning: demonstrations -> a model that answers, and what it answered before (S3 to S6).

python -m scripts.finetune --data mine.jsonl --base runs/demo/base --out runs/mine
"""

import argparse
import random
from pathlib import Path

from scripts.pretrain import LossLog, encode_pieces, split
from scripts.support.common import open_model, read_corpus, refuse_existing, run, show_progress, table, write_json
from scripts.support.running import processes

SCHEDULE = {"steps": 160, "lr": 5e-4, "weight_decay": 0.0, "precision": "auto", "micro_batches": 1}
BATCH_SIZE = 32
LARGE = {"steps": 120, "lr": 5e-5, "batch_size": 8}  # what differs for a real model, of more than 10 M parameters
WINDOW = 256  # tokens of the base model's text that are read at once


def finetune(model, tok, examples, directory: Path, schedule: dict, batch_size: int, seed: int, base="base", **options):
    """Fine-tune the model in place, write it and its log into the directory; return it with the first and last loss.

    base: where the model came from, which is noted in made_from.json, with the turns of the longest demonstration.
    options: loss_on="all", replay=Batches of base documents.
    """
    from minigpt import TrainConfig, save
    from sft import fine_tune

    directory.mkdir(parents=True, exist_ok=True)
    config, log, losses = TrainConfig(**schedule, seed=seed), LossLog(directory), []
    steps = fine_tune(model, tok, examples, config, batch_size=batch_size, **options)
    for step in show_progress(steps, config.steps, "fine-tune"):
        log.add(step)
        losses.append(step.loss)
    save(directory, model.eval(), tok)
    turns = max(sum(message.role == "user" for message in example.messages) for example in examples)
    write_json(directory / "made_from.json", {"base": str(base), "turns": turns})
    log.plot()
    return model, {"first_loss": losses[0], "last_loss": losses[-1]}


def replay_batches(model, tok, tokens, share: float, batch_size: int, seed: int) -> tuple[int, object]:
    """Batches of base documents that fill a share of each step's rows, at least one; and how many rows that is."""
    from minigpt import token_batches

    if not 0 < share < 1:
        raise ValueError(f"--replay {share}: must be between 0 and 1, the share of base documents in a batch")
    rows = max(1, round(share * batch_size))
    if rows >= batch_size:
        raise ValueError(f"--batch-size {batch_size}: leaves no row for demonstrations beside {rows} of base documents")
    return rows, token_batches(tokens, tok.end_id, min(model.context_length, WINDOW), rows, seed)


def text_loss(model, tok, tokens, batch_size: int, precision: str = "fp32") -> float:
    """The model's loss on base documents: what fine-tuning makes it forget shows here."""
    from minigpt import all_batches, evaluate

    return evaluate(model, all_batches(tokens, tok.end_id, min(model.context_length, WINDOW), batch_size), precision)


def base_text(base: str, tok, patterns: list[str], directory: Path) -> list:
    """The base model's training and validation tokens: of --corpus, or what pretraining left beside it; or nothing."""
    from minigpt import read_tokens
    from minigpt.data import write_ids

    source = directory if patterns else Path({"base": "runs/demo/base"}.get(base, base))
    files = [source / f"{name}.npy" for name in ("train", "val")]
    if patterns:
        texts = split(read_corpus(patterns))
        directory.mkdir(parents=True, exist_ok=True)
        for file, part in zip(files, texts):
            write_ids(file, encode_pieces(tok, part, file.stem), tok.vocab_size)
    return [read_tokens(file) for file in files] if all(file.exists() for file in files) else []


def question_and_answer(example) -> tuple[list, str]:
    """A demonstration's messages up to its last response, and that response."""
    last = max(i for i, message in enumerate(example.messages) if message.role == "assistant")
    return example.messages[:last], example.messages[last].content


def answers(model, tok, conversations: list, max_new_tokens: int) -> list:
    """What a model answers greedily to each conversation: Generations."""
    from decoding import generate
    from scripts.support.measure import CHUNK
    from sft import encode_conversation

    prompts, said = [encode_conversation(tok, messages)[0] for messages in conversations], []
    for i in range(0, len(prompts), CHUNK):
        chunk = prompts[i : i + CHUNK]
        said += generate(model, chunk, max_new_tokens=max_new_tokens, eos_id=tok.end_id, temperature=0)
    return said


def spoken(tok, said) -> str:
    """The text of an answer, without its end token."""
    return tok.decode(id for id in said.ids if id != tok.end_id).strip()


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts.finetune", description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, type=Path, help="demonstrations, .jsonl or .json")
    parser.add_argument("--base", default="base", help="base (the demo's), smollm or a run directory (default: base)")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/sft"), help="run directory to write (default: %(default)s)"
    )
    parser.add_argument("--overwrite", action="store_true", help="write over a model that is there")
    parser.add_argument("--skip-bad", action="store_true", help="leave out rows that don't fit, and list them")
    parser.add_argument(
        "--corpus", nargs="*", default=[], help="the base model's text, to measure what is forgotten (default: its own)"
    )
    parser.add_argument("--replay", type=float, default=0.0, help="share of base documents in a batch (default: none)")
    parser.add_argument("--answers", type=int, default=100, help="held-out questions to ask (default: %(default)s)")
    parser.add_argument("--max-new-tokens", type=int, default=64, help="of an answer (default: %(default)s)")
    parser.add_argument("--loss-on", default="response", help="response or all (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="draws what is held out and the order (default: 0)")
    defaults = SCHEDULE | {"batch_size": BATCH_SIZE}
    for name, value in defaults.items():
        shown = f"{value}; {LARGE[name]} for a model of more than 10 M parameters" if name in LARGE else value
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), help=f"(default: {shown})")
    args = parser.parse_args()
    if processes() > 1:
        raise ValueError(f"torchrun started {processes()} processes: fine-tuning runs in one, only pretraining in more")
    from minigpt import TrainConfig, evaluate
    from sft import collate, encode_conversation, encode_examples, epoch_picks, padding, read_examples

    refuse_existing(args.out, args.overwrite)
    skipped = [] if args.skip_bad else None
    examples = read_examples(args.data, skipped)
    for problem in (skipped or [])[:10]:
        print(f"  skipped {problem}")
    model, tok = open_model(args.base)
    if sum(parameter.numel() for parameter in model.parameters()) > 10_000_000:
        defaults |= LARGE
    settings = {name: value if getattr(args, name) is None else getattr(args, name) for name, value in defaults.items()}
    batch_size = settings.pop("batch_size")
    random.Random(args.seed).shuffle(examples)
    held_out = examples[: max(1, len(examples) // 10)]
    examples = examples[len(held_out) :] or examples
    rows = encode_examples(tok, held_out, model.context_length)
    training = encode_examples(tok, examples, model.context_length, args.loss_on)  # errors come before any work
    TrainConfig(**settings)
    text = base_text(args.base, tok, args.corpus, args.out)
    options, demonstrated = {"loss_on": args.loss_on}, batch_size
    if args.replay:
        if not text:
            raise ValueError(f"--replay {args.replay}: needs the base model's text, add --corpus")
        replayed, options["replay"] = replay_batches(model, tok, text[0], args.replay, batch_size, args.seed)
        demonstrated -= replayed
    picks = epoch_picks(training, demonstrated, args.seed, 0)
    print(f"  {args.base}: {len(examples):,} demonstrations to learn from, {len(held_out):,} held out")
    if skipped:
        print(f"  {len(skipped):,} rows don't fit and are skipped")
    if training.truncated:
        cut = f"{training.truncated:,} are longer than the context of {model.context_length} and lose their end"
        print(f"  {cut}; {training.dropped:,} of them lose the whole response and are left out")
    print(f"  {len(picks):,} batches an epoch, {padding(training, picks):.1%} of them padding")

    asked = [question_and_answer(example) for example in held_out]
    asked = [pair for pair in asked if len(encode_conversation(tok, pair[0])[0]) < model.context_length][: args.answers]

    def look() -> tuple[dict, list[str]]:
        validation = (collate(rows, pick) for pick in epoch_picks(rows, batch_size, 0, 0))
        found = {"val_loss": evaluate(model, validation, settings["precision"])}
        said = answers(model, tok, [messages for messages, _ in asked], args.max_new_tokens)
        texts = [spoken(tok, answer) for answer in said]
        if asked:
            found["exact"] = sum(text == meant.strip() for text, (_, meant) in zip(texts, asked))
            found["stopped"] = sum(answer.stop == "eos" for answer in said)
            found["tokens"] = sum(len(answer.ids) for answer in said) / len(said)
        if text:
            found["text_loss"] = text_loss(model, tok, text[1], batch_size, settings["precision"])
        return found, texts

    before, said_before = look()
    finetune(model, tok, examples, args.out, settings, demonstrated, args.seed, base=args.base, **options)
    after, said_after = look()
    names = {
        "val_loss": "loss on held-out responses",
        "exact": f"of {len(asked)} held-out questions, answered word for word",
        "stopped": "answers that end by themselves",
        "tokens": "tokens an answer",
        "text_loss": "loss on the base model's text",
    }
    table(["", "before", "after"], [[names[key], before[key], after[key]] for key in before])
    for (messages, meant), old, new in list(zip(asked, said_before, said_after))[:3]:
        print()
        lines = {"": messages[-1].content, "  before: ": old, "  after:  ": new, "  meant:  ": meant}
        for label, line in lines.items():
            print(f"  {label}{' '.join(line.split())}")
    found = {"asked": len(asked), "padding": padding(training, picks), "before": before, "after": after}
    write_json(args.out / "results.json", found)
    print(f"\n  in {args.out}: the model, log.jsonl, loss.png, results.json")


if __name__ == "__main__":
    run(main)
