"""Pretraining: text files -> tokenizer -> token files -> a base model in a run directory (P1 to P3).

python -m scripts.pretrain --data 'books/*.txt' --out runs/books
"""

import argparse
import json
import math
import shutil
import statistics
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path

from scripts.support.command_line import run
from scripts.support.common import Rest, read_corpus
from scripts.support.run_directory import refuse_existing, write_json
from scripts.support.running import fingerprint, joined, once, refuse_saves, stoppable, which_save
from scripts.support.terminal import show_progress

# Measured on the toy world: see README. Every name is one token at its natural vocabulary of about 1,230 ids.
SHAPE = {"context_length": 128, "n_layers": 4, "n_heads": 4, "d_model": 128, "d_ff": 352, "dropout": 0.0}
VOCAB_SIZE, BATCH_SIZE = 768, 32
SAMPLE = 16_000_000  # characters at most that the tokenizer is trained on
SCHEDULE = {"steps": 700, "lr": 4e-3, "optimizer": "muon", "muon_lr": 0.02, "micro_batches": 1, "precision": "auto"}
NUMPY_SCHEDULE = {"steps": 2000, "lr": 2e-3, "optimizer": "adamw", "precision": "fp32"}  # the twin has neither else


class Part:
    """One side of a split, read anew each time: each document's text up to its border, or from there on."""

    def __init__(self, documents: Iterable[str], borders: Sequence[int], before: bool):
        self.documents, self.borders, self.before = documents, borders, before

    def __iter__(self) -> Iterator[str]:
        number, seen = -1, 0  # of the document at hand; its characters in the pieces so far
        for piece in self.documents:
            if not isinstance(piece, Rest):
                number, seen, begun = number + 1, 0, False
            border = min(max(self.borders[number] - seen, 0), len(piece))
            kept = piece[:border] if self.before else piece[border:]
            if kept:
                yield Rest(kept) if begun else kept
                begun = True
            seen += len(piece)


def split(documents: Iterable[str]) -> tuple[Part, Part]:
    """Training and validation text: the last twentieth of many documents, the last tenth of each of few."""
    lengths = array("q")  # in characters; a corpus may hold many millions of documents
    for piece in documents:
        if isinstance(piece, Rest):
            lengths[-1] += len(piece)
        else:
            lengths.append(len(piece))
    if len(lengths) >= 20:
        validation = len(lengths) // 20
        borders = lengths[:-validation] + array("q", [0]) * validation
    else:
        borders = array("q", [length * 9 // 10 for length in lengths])
    return Part(documents, borders, before=True), Part(documents, borders, before=False)


def prepare(documents: Iterable[str], directory: Path, vocab_size: int, context_length: int):
    """Train a tokenizer on the training text and write train.npy and val.npy; return the tokenizer.

    documents: gone through several times, so a list or a Corpus. Of a training text longer than SAMPLE characters, the
    tokenizer sees pieces at even distances. ValueError, before anything is written, when a part of the text is shorter
    than one context.
    """
    from minigpt import Tokenizer
    from minigpt.data import write_ids

    training, validation = split(documents)
    characters, every = sum(training.borders), -(-sum(training.borders) // SAMPLE) or 1
    if every > 1:
        print(f"  {characters:,} characters to train on; the tokenizer learns from every {every}th piece of them")
    tok = Tokenizer.train(islice(training, 0, None, every), vocab_size)
    for name, part in (("training", training), ("validation", validation)):
        found = 0
        for piece in part:
            found += len(tok.encode(piece))
            if found > context_length:
                break
        else:
            raise ValueError(f"the {name} text has {found} tokens, fewer than one context of {context_length}")
    directory.mkdir(parents=True, exist_ok=True)
    for name, part in (("train", training), ("val", validation)):
        write_ids(directory / f"{name}.npy", encode_pieces(tok, part, name), tok.vocab_size)
    print(f"  {len(training.borders):,} documents, a vocabulary of {tok.vocab_size} tokens")
    return tok


def encode_pieces(tok, pieces: Iterable[str], what: str) -> Iterator[list[int]]:
    """The ids of a token file, piece by piece, with a progress bar; end tokens stand before documents and last."""
    from tqdm import tqdm

    with tqdm(desc=f"{what}.npy", unit="chars", unit_scale=True, disable=None, leave=False) as bar:
        for piece in pieces:
            yield tok.encode(piece) if isinstance(piece, Rest) else [tok.end_id, *tok.encode(piece)]
            bar.update(len(piece))
    yield [tok.end_id]


def pretrain(tok, directory: Path, shape: dict, schedule: dict, batch_size: int, seed: int, **options):
    """Train a base model on the directory's token files; write model, log.jsonl and loss.png there.

    options: backend="numpy" for the twin without autograd; device, compile=True. For a run that can be stopped and
    resumed: settings={…}, which must be the same then; save_every=N steps; resume=True, or the step of a save. Returns
    the model and {"first_loss", "ln_vocab", "vocab_size", "parameters", "val_loss", "steps", "tokens_per_second"}; of
    several processes only the first writes, and the others get {}.
    """
    import torch

    import minigpt
    from minigpt.fast import processes as parallel
    from minigpt.tokenizer import END

    first, device, settings = parallel.rank() == 0, options.get("device", "cpu"), options.get("settings")
    config = minigpt.TrainConfig(**schedule, seed=seed)
    torch.manual_seed(seed)
    model, state = minigpt.GPT(minigpt.GPTConfig(vocab_size=tok.vocab_size, **shape)).to(device), minigpt.TrainState()
    if resume := options.get("resume"):
        state = minigpt.load_checkpoint(directory, model, settings, None if resume is True else resume)
    end, context = tok.special[END], shape["context_length"]
    training, validation = (minigpt.read_tokens(directory / f"{name}.npy") for name in ("train", "val"))
    batches = minigpt.token_batches(training, end, context, batch_size, seed)
    parameters, ln_vocab = sum(p.numel() for p in model.parameters()), math.log(tok.vocab_size)
    if first:
        print(f"  {parameters:,} parameters, {len(training):,} tokens; before training, loss is ln V = {ln_vocab:.2f}")
    if options.get("backend") == "numpy":
        from minigpt import numpy_gpt

        twin = numpy_gpt.NumpyGPT.from_torch(model)
        steps, trained = numpy_gpt.train(twin, batches, config), twin.to_torch
    else:
        compiled = torch.compile(model) if options.get("compile") else None
        steps, trained = minigpt.train(model, batches, config, state, compiled), lambda: model
    save = lambda: minigpt.save_checkpoint(directory, model, state, settings)
    if settings:
        steps = stoppable(steps, directory, save, device)
    if not first:
        for _ in steps:  # the first process measures, shows and writes
            pass
        return model, {}

    def validate() -> float:
        batches = minigpt.all_batches(validation, end, context, 64)
        return minigpt.evaluate(trained(), batches, config.precision)

    log, save_every = LossLog(directory, state.step), options.get("save_every")
    for step in show_progress(steps, config.steps, "pretrain", state.step):
        last = step.step == config.steps
        log.add(step, validate() if last or step.step % max(1, config.steps // 10) == 0 else None)
        if save_every and (last or step.step % save_every == 0):
            save()
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
    """A run's log.jsonl: one line a step, with the validation loss where it was measured; and its plot.

    done: how many steps a resumed run has behind it. Later lines go, as their steps are made again.
    """

    def __init__(self, directory: Path, done: int = 0):
        self.directory = directory
        with open(directory / "log.jsonl", "a+b") as file:
            file.seek(0)
            file.truncate(sum(len(line) for line in islice(file, done)))

    def add(self, step, validation: float | None = None) -> None:
        row = {"step": step.step, "loss": step.loss, "lr": step.lr, "grad_norm": step.grad_norm}
        row |= {"tokens": step.tokens, "seconds": step.seconds}
        if validation is not None:
            row["val_loss"] = validation
        with open(self.directory / "log.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def plot(self) -> None:
        from scripts.support.plots import save_loss_plot

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
    parser.add_argument(
        "--resume", nargs="?", const="newest", metavar="STEP", help="go on from the newest save, or that of a step"
    )
    parser.add_argument("--save-every", type=int, help="steps between saves, 0 for none (default: a tenth of the run)")
    parser.add_argument(
        "--device", choices=["auto", "cpu", "cuda"], default="auto", help="auto: cuda where there is one (default)"
    )
    parser.add_argument("--compile", action="store_true", help="torch.compile the model: pays after some minutes")
    parser.add_argument("--vocab-size", type=int, default=VOCAB_SIZE, help="tokens at most (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=BATCH_SIZE, help="rows a step (default: %(default)s)")
    parser.add_argument("--backend", choices=["torch", "numpy"], default="torch", help="numpy: the twin, by hand")
    parser.add_argument("--seed", type=int, default=0, help="draws weights and order (default: %(default)s)")
    for group in (SHAPE, SCHEDULE):
        for name, value in group.items():
            flag = f"--{name.replace('_', '-')}"
            parser.add_argument(flag, type=type(value), default=value, help="(default: %(default)s)")
    args = parser.parse_args()
    args.resume = which_save(args.resume) if args.resume else None
    if args.backend == "numpy":
        if args.resume or args.save_every or args.compile:
            raise ValueError("--backend numpy: leave out --resume, --save-every and --compile, it has none of them")
        unset = [name for name in NUMPY_SCHEDULE if getattr(args, name) == SCHEDULE.get(name)]
        vars(args).update({name: NUMPY_SCHEDULE[name] for name in unset})  # what isn't set by hand fits the twin
    with joined(args.device) as device:
        train_as_told(args, device)


def train_as_told(args: argparse.Namespace, device: str) -> None:
    """What `main` does once it knows its flags and its device."""
    from minigpt import GPTConfig, TrainConfig
    from minigpt.files.reading import file_hash
    from minigpt.files.tokenizer_json import from_json, to_json
    from minigpt.files.writing import write_text

    shape, schedule = ({name: getattr(args, name) for name in group} for group in (SHAPE, SCHEDULE))
    # Bad numbers are refused before any work; and what a run depends on is known when it is resumed.
    settings = asdict(GPTConfig(vocab_size=args.vocab_size, **shape)) | asdict(TrainConfig(**schedule, seed=args.seed))
    settings |= {"batch_size": args.batch_size, "data": fingerprint(args.data)}
    with once() as first:
        if first and not args.resume:
            refuse_existing(args.out, args.overwrite)
            refuse_saves(args.out, args.overwrite)
            tok = prepare(read_corpus(args.data), args.out, args.vocab_size, args.context_length)
            shutil.rmtree(args.out / "checkpoints", ignore_errors=True)
            (args.out / "config.json").unlink(missing_ok=True)  # until the new model is there, none is
            write_text(args.out / "tokenizer.json", to_json(tok))
    made = [args.out / name for name in ("tokenizer.json", "train.npy", "val.npy")]
    if missing := [path for path in made if not path.exists()]:
        raise FileNotFoundError(f"{missing[0]}: is missing, there is no run to resume")
    settings |= {path.name: file_hash(path)[:16] for path in made}
    options = {"backend": args.backend, "device": device, "compile": args.compile, "resume": args.resume}
    if args.backend == "torch":
        save_every = max(1, args.steps // 10) if args.save_every is None else args.save_every
        options |= {"settings": settings, "save_every": save_every}
    tok = from_json(made[0].read_text(encoding="utf-8"))
    _, result = pretrain(tok, args.out, shape, schedule, args.batch_size, args.seed, **options)
    if result:
        write_json(args.out / "results.json", result)
        print(f"  validation loss {result['val_loss']:.3f} after {result['steps']} steps")
        print(f"  in {args.out}: the model, log.jsonl, loss.png")


if __name__ == "__main__":
    run(main)
