"""Pretraining: text files -> tokenizer -> token files -> a base model in a run directory (P1 to P3).

python -m scripts.pretrain --data 'books/*.txt' --out runs/books
"""

import argparse
from dataclasses import asdict
from pathlib import Path

from scripts.support.command_line import run

# Measured on the toy world. Every name is one token at its natural vocabulary of about 1,230 ids.
SHAPE = {"context_length": 128, "n_layers": 4, "n_heads": 4, "d_model": 128, "d_ff": 352, "dropout": 0.0}
VOCAB_SIZE, BATCH_SIZE = 768, 32
SCHEDULE = {"steps": 700, "lr": 4e-3, "optimizer": "muon", "muon_lr": 0.02, "micro_batches": 1, "precision": "auto"}
NUMPY_SCHEDULE = {"steps": 2000, "lr": 2e-3, "optimizer": "adamw", "precision": "fp32"}  # the twin has no others


def main() -> None:
    args = parsed()
    from scripts.support.stop_and_resume import which_save
    from scripts.support.torchrun import joined

    args.resume = which_save(args.resume) if args.resume else False
    if args.backend == "numpy":
        if args.resume or args.save_every or args.compile:
            raise ValueError("--backend numpy: leave out --resume, --save-every and --compile, it has none of them")
        unset = [name for name in NUMPY_SCHEDULE if getattr(args, name) == SCHEDULE.get(name)]
        vars(args).update({name: NUMPY_SCHEDULE[name] for name in unset})  # what isn't set by hand fits the twin
    with joined(args.device) as device:
        pretrain_on_files(args, device)


def pretrain_on_files(args: argparse.Namespace, device: str) -> None:
    """Prepare the text unless a run is resumed, train, and report."""
    from minigpt import GPTConfig, TrainConfig
    from scripts.support.models import open_tokenizer
    from scripts.support.pretraining import begin_run, pretrain
    from scripts.support.run_directory import write_json
    from scripts.support.stop_and_resume import fingerprint, prepared_files
    from scripts.support.torchrun import once

    # bad numbers are refused before any work
    shape = {name: getattr(args, name) for name in SHAPE}
    schedule = {name: getattr(args, name) for name in SCHEDULE}
    settings = asdict(GPTConfig(vocab_size=args.vocab_size, **shape)) | asdict(TrainConfig(**schedule, seed=args.seed))

    # what a run depends on is noted, so that it is resumed with the same
    settings |= {"batch_size": args.batch_size, "data": fingerprint(args.data)}
    with once() as first:
        if first and not args.resume:
            begin_run(args)
    settings |= prepared_files(args.out)

    # train; the twin can be neither stopped nor resumed
    saving = {}
    if args.backend == "torch":
        save_every = max(1, args.steps // 10) if args.save_every is None else args.save_every
        saving = {"settings": settings, "save_every": save_every, "resume": args.resume}
    options = dict(backend=args.backend, device=device, compile=args.compile)
    tok = open_tokenizer(args.out)
    _, result = pretrain(tok, args.out, shape, schedule, args.batch_size, args.seed, **options, **saving)

    # report
    if result:
        write_json(args.out / "results.json", result)
        print(f"  validation loss {result['val_loss']:.3f} after {result['steps']} steps")
        print(f"  in {args.out}: the model, log.jsonl, loss.png")


def parsed() -> argparse.Namespace:
    """The command line's flags."""
    parser = argparse.ArgumentParser(prog="scripts.pretrain", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--data", nargs="+", required=True, help="text files or quoted patterns; <|endoftext|> separates documents"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs/pretrain"), help="run directory to write (default: %(default)s)"
    )
    parser.add_argument("--overwrite", action="store_true", help="overwrite an existing model")
    parser.add_argument(
        "--resume",
        nargs="?",
        const="newest",
        metavar="STEP",
        help="resume from the newest save or from this step",
    )
    parser.add_argument("--save-every", type=int, help="steps between saves, 0 for none (default: a tenth of the run)")
    parser.add_argument(
        "--device", choices=["auto", "cpu", "cuda"], default="auto", help="auto: cuda if there is one (default)"
    )
    parser.add_argument("--compile", action="store_true", help="torch.compile the model: pays after some minutes")
    parser.add_argument("--vocab-size", type=int, default=VOCAB_SIZE, help="tokens at most (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=BATCH_SIZE, help="rows per step (default: %(default)s)")
    parser.add_argument("--backend", choices=["torch", "numpy"], default="torch", help="numpy: the twin, by hand")
    parser.add_argument("--seed", type=int, default=0, help="draws weights and order (default: %(default)s)")
    for group in (SHAPE, SCHEDULE):
        for name, value in group.items():
            flag = f"--{name.replace('_', '-')}"
            parser.add_argument(flag, type=type(value), default=value, help="(default: %(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    run(main)
