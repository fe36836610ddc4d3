"""Pretraining: text files -> tokenizer -> token files -> a base model in a run directory (P1 to P3).

python -m scripts.pretrain --data 'books/*.txt' --out runs/books
"""

import argparse
import json
import math
import statistics
from pathlib import Path

from scripts.common import read_corpus, refuse_existing, run, show_progress, write_json

# Measured on the toy world: see README. Every name is one token at its natural vocabulary of about 1,230 ids.
SHAPE = {"context_length": 128, "n_layers": 4, "n_heads": 4, "d_model": 128, "d_ff": 352}
VOCAB_SIZE, BATCH_SIZE = 768, 32
SCHEDULE = {"steps": 700, "lr": 4e-3, "optimizer": "muon", "muon_lr": 0.02, "precision": "auto"}
NUMPY_SCHEDULE = {"steps": 2000, "lr": 2e-3, "optimizer": "adamw", "precision": "fp32"}  # the twin has neither else


def split(documents: list[str]) -> tuple[list[str], list[str]]:
    """Training and validation text: the last twentieth of many documents, the last tenth of each of few."""
    if len(documents) >= 20:
        border = len(documents) - len(documents) // 20
        return documents[:border], documents[border:]
    borders = [len(document) * 9 // 10 for document in documents]
    return [d[:b] for d, b in zip(documents, borders)], [d[b:] for d, b in zip(documents, borders)]


def prepare(documents: list[str], directory: Path, vocab_size: int, context_length: int):
    """Train a tokenizer on the training text and write train.npy and val.npy; return the tokenizer.

    ValueError, before anything is written, when a part of the text is shorter than one context.
    """
    from minigpt import Tokenizer, write_tokens
    from minigpt.tokenizer import END

    training, validation = split(documents)
    tok = Tokenizer.train(training, vocab_size)
    for name, texts in (("training", training), ("validation", validation)):
        found = 0
        for text in texts:
            found += len(tok.encode(text))
            if found > context_length:
                break
        else:
            raise ValueError(f"the {name} text has {found} tokens, fewer than one context of {context_length}")
    directory.mkdir(parents=True, exist_ok=True)
    for name, texts in (("train", training), ("val", validation)):
        write_tokens(directory / f"{name}.npy", map(tok.encode, texts), tok.special[END], tok.vocab_size)
    return tok


def pretrain(tok, directory: Path, shape: dict, schedule: dict, batch_size: int, seed: int, **options):
    """Train a base model on the directory's token files; write model, log.jsonl and loss.png there.

    options: backend="numpy" for the twin without autograd; save_every=N, resume=True for checkpoints. Returns the
    model and {"first_loss", "ln_vocab", "vocab_size", "parameters", "val_loss", "steps", "tokens_per_second"}.
    """
    import torch

    import minigpt
    from minigpt.tokenizer import END

    end, context = tok.special[END], shape["context_length"]
    training, validation = (minigpt.read_tokens(directory / f"{name}.npy") for name in ("train", "val"))
    config = minigpt.TrainConfig(**schedule, seed=seed)
    batches = minigpt.token_batches(training, end, context, batch_size, seed)
    torch.manual_seed(seed)
    model, state = minigpt.GPT(minigpt.GPTConfig(vocab_size=tok.vocab_size, **shape)), minigpt.TrainState()
    parameters, ln_vocab = sum(p.numel() for p in model.parameters()), math.log(tok.vocab_size)
    print(f"  {parameters:,} parameters, {len(training):,} tokens; before training, loss is ln V = {ln_vocab:.2f}")
    if options.get("backend") == "numpy":
        from minigpt import numpy_gpt

        twin = numpy_gpt.NumpyGPT.from_torch(model)
        steps, trained = numpy_gpt.train(twin, batches, config), twin.to_torch
    else:
        if options.get("resume"):
            state = minigpt.load_checkpoint(directory, model)
        steps, trained = minigpt.train(model, batches, config, state), lambda: model

    def validate() -> float:
        batches = minigpt.all_batches(validation, end, context, 64)
        return minigpt.evaluate(trained(), batches, config.precision)

    log, save_every = LossLog(directory, keep=state.step > 0), options.get("save_every")
    for step in show_progress(steps, config.steps, "pretrain", state.step):
        last = step.step == config.steps
        log.add(step, validate() if last or step.step % max(1, config.steps // 10) == 0 else None)
        if save_every and (last or step.step % save_every == 0):
            minigpt.save_checkpoint(directory, model, state)
    minigpt.save(directory, trained(), tok)
    log.plot()
    rows = [json.loads(line) for line in (directory / "log.jsonl").read_text().splitlines()]
    return trained(), {
        "first_loss": rows[0]["loss"],
        "ln_vocab": ln_vocab,
        "vocab_size": tok.vocab_size,
        "parameters": parameters,
        "val_loss": rows[-1]["val_loss"],
        "steps": config.steps,
        "tokens_per_second": round(statistics.median(row["tokens"] / row["seconds"] for row in rows)),
    }


class LossLog:
    """A run's log.jsonl: one line a step, with the validation loss where it was measured; and its plot."""

    def __init__(self, directory: Path, keep: bool = False):
        self.directory = directory
        if not keep:
            (directory / "log.jsonl").write_text("")

    def add(self, step, validation: float | None = None) -> None:
        row = {"step": step.step, "loss": step.loss, "lr": step.lr, "grad_norm": step.grad_norm}
        row |= {"tokens": step.tokens, "seconds": step.seconds}
        if validation is not None:
            row["val_loss"] = validation
        with open(self.directory / "log.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def plot(self) -> None:
        from scripts.plots import save_loss_plot

        save_loss_plot(self.directory)


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts.pretrain", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--data", nargs="+", required=True, help="text files or quoted patterns; <|endoftext|> separates documents"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs/pretrain"), help="run directory to write (default: %(default)s)"
    )
    parser.add_argument("--overwrite", action="store_true", help="write over a model that is there")
    parser.add_argument("--resume", action="store_true", help="go on from the run's newest checkpoint")
    parser.add_argument("--save-every", type=int, default=0, help="steps between checkpoints (default: none)")
    parser.add_argument("--vocab-size", type=int, default=VOCAB_SIZE, help="tokens at most (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=BATCH_SIZE, help="rows a step (default: %(default)s)")
    parser.add_argument("--backend", choices=["torch", "numpy"], default="torch", help="numpy: the twin, by hand")
    parser.add_argument("--seed", type=int, default=0, help="draws weights and order (default: %(default)s)")
    for group in (SHAPE, SCHEDULE):
        for name, value in group.items():
            flag = f"--{name.replace('_', '-')}"
            parser.add_argument(flag, type=type(value), default=value, help="(default: %(default)s)")
    args = parser.parse_args()
    if args.backend == "numpy":
        if args.resume or args.save_every:
            raise ValueError("--backend numpy: has no checkpoints, leave out --resume and --save-every")
        unset = [name for name in NUMPY_SCHEDULE if getattr(args, name) == SCHEDULE.get(name)]
        vars(args).update({name: NUMPY_SCHEDULE[name] for name in unset})  # what isn't set by hand fits the twin
    from minigpt import GPTConfig, TrainConfig

    if not args.resume:
        refuse_existing(args.out, args.overwrite)
    shape, schedule = ({name: getattr(args, name) for name in group} for group in (SHAPE, SCHEDULE))
    GPTConfig(vocab_size=args.vocab_size, **shape), TrainConfig(**schedule)  # bad numbers are refused before any work
    documents = read_corpus(args.data)
    tok = prepare(documents, args.out, args.vocab_size, args.context_length)
    print(f"  {len(documents):,} documents, a vocabulary of {tok.vocab_size} tokens")
    options = {"backend": args.backend, "save_every": args.save_every, "resume": args.resume}
    _, result = pretrain(tok, args.out, shape, schedule, args.batch_size, args.seed, **options)
    write_json(args.out / "results.json", result)
    print(f"  validation loss {result['val_loss']:.3f} after {result['steps']} steps")
    print(f"  in {args.out}: the model, log.jsonl, loss.png")


if __name__ == "__main__":
    run(main)
