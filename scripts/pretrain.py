"""Pretraining: text files -> tokenizer -> token files -> a base model in a run directory (P1 to P3).

python -m scripts.pretrain --data 'books/*.txt' --out runs/books
"""

import argparse
import json
import math
from pathlib import Path

from scripts.common import read_corpus, refuse_existing, run, show_progress, write_json

# Measured on the toy world: see README. Every name is one token at its natural vocabulary of about 1,230 ids.
SHAPE = {"context_length": 128, "n_layers": 4, "n_heads": 4, "d_model": 128, "d_ff": 352}
VOCAB_SIZE, BATCH_SIZE = 768, 32
SCHEDULE = {"steps": 700, "lr": 4e-3, "optimizer": "muon", "muon_lr": 0.02, "precision": "auto"}


def split(documents: list[str]) -> tuple[list[str], list[str]]:
    """Training and validation text: the last twentieth of many documents, the last tenth of each of few."""
    if len(documents) >= 20:
        border = len(documents) - len(documents) // 20
        return documents[:border], documents[border:]
    borders = [len(document) * 9 // 10 for document in documents]
    return [d[:b] for d, b in zip(documents, borders)], [d[b:] for d, b in zip(documents, borders)]


def prepare(documents: list[str], directory: Path, vocab_size: int):
    """Train a tokenizer on the training text and write train.npy and val.npy; return the tokenizer."""
    from minigpt import Tokenizer, write_tokens
    from minigpt.tokenizer import END

    training, validation = split(documents)
    tok = Tokenizer.train(training, vocab_size)
    directory.mkdir(parents=True, exist_ok=True)
    for name, texts in (("train", training), ("val", validation)):
        write_tokens(directory / f"{name}.npy", map(tok.encode, texts), tok.special[END], tok.vocab_size)
    return tok


def pretrain(tok, directory: Path, shape: dict, schedule: dict, batch_size: int, seed: int, save_every=0, resume=False):
    """Train a base model on the directory's token files; write model, log.jsonl and loss.png there.

    Returns the model and {"first_loss", "ln_vocab", "val_loss", "steps", "tokens_per_second"}.
    """
    import torch

    from minigpt import (
        GPT,
        GPTConfig,
        TrainConfig,
        TrainState,
        all_batches,
        evaluate,
        load_checkpoint,
        read_tokens,
        save,
        save_checkpoint,
        token_batches,
        train,
    )
    from minigpt.tokenizer import END

    end, context = tok.special[END], shape["context_length"]
    tokens = {name: read_tokens(directory / f"{name}.npy") for name in ("train", "val")}
    for name, found in tokens.items():
        if len(found) <= min(context, 16) + 1:
            raise ValueError(f"the {name} text has only {len(found)} tokens, the context is {context}: give more text")
    torch.manual_seed(seed)
    model = GPT(GPTConfig(vocab_size=tok.vocab_size, **shape))
    config = TrainConfig(**schedule, seed=seed)
    state = load_checkpoint(directory, model) if resume else TrainState()
    batches = token_batches(tokens["train"], end, context, batch_size, seed)

    def validate() -> float:
        return evaluate(model, all_batches(tokens["val"], end, context, 64), config.precision)

    log, first, speeds = LossLog(directory, keep=resume), None, []
    print(f"  {sum(p.numel() for p in model.parameters()):,} parameters, {len(tokens['train']):,} training tokens; "
          f"an untrained model's loss is ln V = {math.log(tok.vocab_size):.2f}")  # fmt: skip
    for step in show_progress(train(model, batches, config, state), config.steps, "pretrain", state.step):
        last = step.step == config.steps
        due = step.step % max(1, config.steps // 10) == 0 or last
        log.add(step, validate() if due else None)
        first = step.loss if first is None else first
        speeds.append(step.tokens / step.seconds)
        if save_every and (step.step % save_every == 0 or last):
            save_checkpoint(directory, model, state)
    save(directory, model, tok)
    log.plot()
    return model, {
        "first_loss": first,
        "ln_vocab": math.log(tok.vocab_size),
        "vocab_size": tok.vocab_size,
        "parameters": sum(p.numel() for p in model.parameters()),
        "val_loss": log.validation[-1][1] if log.validation else validate(),
        "steps": config.steps,
        "tokens_per_second": sorted(speeds)[len(speeds) // 2] if speeds else None,
    }


class LossLog:
    """A run's log.jsonl: one line a step, with the validation loss where it was measured; and its plot."""

    def __init__(self, directory: Path, keep: bool = False):
        self.directory, self.training, self.validation = directory, [], []
        if not keep:
            (directory / "log.jsonl").write_text("")

    def add(self, step, validation: float | None = None) -> None:
        row = {"step": step.step, "loss": step.loss, "lr": step.lr, "grad_norm": step.grad_norm}
        row |= {"tokens": step.tokens, "seconds": step.seconds}
        self.training.append((step.step, step.loss))
        if validation is not None:
            row["val_loss"] = validation
            self.validation.append((step.step, validation))
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
    parser.add_argument("--seed", type=int, default=0, help="draws weights and order (default: %(default)s)")
    for group in (SHAPE, SCHEDULE):
        for name, value in group.items():
            flag = f"--{name.replace('_', '-')}"
            parser.add_argument(flag, type=type(value), default=value, help="(default: %(default)s)")
    args = parser.parse_args()
    if not args.resume:
        refuse_existing(args.out, args.overwrite)
    documents = read_corpus(args.data)
    tok = prepare(documents, args.out, args.vocab_size)
    print(f"  {len(documents):,} documents, a vocabulary of {tok.vocab_size} tokens")
    shape, schedule = ({name: getattr(args, name) for name in group} for group in (SHAPE, SCHEDULE))
    _, result = pretrain(tok, args.out, shape, schedule, args.batch_size, args.seed, args.save_every, args.resume)
    write_json(args.out / "results.json", result)
    print(f"  validation loss {result['val_loss']:.3f} after {result['steps']} steps")
    print(f"  in {args.out}: the model, log.jsonl, loss.png")


if __name__ == "__main__":
    run(main)
