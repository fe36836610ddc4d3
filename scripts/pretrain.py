"""Pretraining: text files -> tokenizer -> token files -> a base model in a run directory (P1 to P3).

python -m scripts.pretrain --data 'books/*.txt' --out runs/books
"""

import argparse
from contextlib import ExitStack
from dataclasses import asdict
from glob import glob
from pathlib import Path

from scripts.support.command_line import Parser, file_name, run, whole
from scripts.support.run_directory import locked, write_json
from scripts.support.terminal import visible

# Measured on the toy world. Every name is one token at its natural vocabulary of about 1,230 ids.
SHAPE = {"context_length": 128, "n_layers": 4, "n_heads": 4, "d_model": 128, "d_ff": 352, "dropout": 0.0}
VOCAB_SIZE, BATCH_SIZE = 768, 32
SCHEDULE = {"steps": 700, "lr": 4e-3, "optimizer": "muon", "muon_lr": 0.02, "micro_batches": 1, "precision": "auto"}
ADAMW = {"steps": 2000, "lr": 2e-3, "optimizer": "adamw"}  # for a sharded model, which has no Muon
NUMPY_SCHEDULE = ADAMW | {"precision": "fp32"}  # the twin has no others


def main() -> None:
    args = parsed()
    from scripts.support.stop_and_resume import require_tensorboard, which_save
    from scripts.support.torchrun import joined

    args.resume = False if args.resume is None else which_save(args.resume)
    args.data = [pattern for text in args.data for pattern in patterns_in(text)]
    choose_schedule(args)
    require_tensorboard(args.tensorboard)
    with joined(args.device, args.shard) as device:
        pretrain_on_files(args, device)


def choose_schedule(args: argparse.Namespace) -> None:
    """Fill in the schedule that isn't set by hand. ValueError that names a flag which doesn't belong to this run."""
    typed = {name for name in SCHEDULE if getattr(args, name) is not None}
    by_numpy = args.backend == "numpy"
    defaults = SCHEDULE | (NUMPY_SCHEDULE if by_numpy else ADAMW if args.shard else {})
    vars(args).update({name: defaults[name] for name in SCHEDULE if name not in typed})

    strange = {"muon_lr": args.optimizer != "muon" and "muon_lr" in typed}
    has_not = {"optimizer": "adamw", "compile": False} if by_numpy or args.shard else {}
    if by_numpy:
        has_not |= {"resume": False, "save_every": None, "dropout": 0.0, "micro_batches": 1, "precision": "fp32"}
        has_not |= {"shard": False, "recompute": False}
        strange["device"] = args.device == "cuda"
    strange |= {name: getattr(args, name) != value for name, value in has_not.items()}
    found = [f"--{name.replace('_', '-')} {getattr(args, name)}" for name, is_strange in strange.items() if is_strange]
    if found:
        whose = "--backend numpy" if by_numpy else "--shard" if args.shard else f"--optimizer {args.optimizer}"
        raise ValueError(f"{', '.join(found)}: {whose} has no such choice, leave it out")


def patterns_in(text: str) -> list[str]:
    """The patterns in what DATA says: several, with spaces between them, unless files have such a name.

    >>> patterns_in("books/*.txt")
    ['books/*.txt']
    """
    parts = text.split()
    several = not (Path(text).exists() or glob(text)) and all(Path(part).exists() or glob(part) for part in parts)
    return parts if several and parts else [text]


def pretrain_on_files(args: argparse.Namespace, device: str) -> None:
    """Prepare the text unless a run is resumed, train, and report."""
    from minigpt import GPTConfig, TrainConfig
    from scripts.support.pretraining import begin_run, check_memory
    from scripts.support.stop_and_resume import fingerprint, prepared_files
    from scripts.support.torchrun import once, processes

    # bad numbers are refused before any work
    shape = {name: getattr(args, name) for name in SHAPE}
    schedule = {name: getattr(args, name) for name in SCHEDULE}
    config = GPTConfig(vocab_size=args.vocab_size, **shape)
    settings = asdict(config) | asdict(TrainConfig(**schedule, seed=args.seed))
    check_memory(config, args.batch_size, processes() if args.shard else 1)

    # what a run depends on is noted, so that it is resumed with the same
    settings |= {"batch_size": args.batch_size, "data": fingerprint(args.data)}
    with ExitStack() as until_the_end:
        with once() as first:
            if first:
                until_the_end.enter_context(locked(args.out))
                if not args.resume:
                    begin_run(args)
        train_and_report(args, device, shape, schedule, settings | prepared_files(args.out))


def train_and_report(args: argparse.Namespace, device: str, shape: dict, schedule: dict, settings: dict) -> None:
    """Train on the prepared files, and say what came of it."""
    from scripts.support.measuring.text_loss import told
    from scripts.support.models import open_tokenizer
    from scripts.support.pretraining import pretrain

    # train; the twin can be neither stopped nor resumed
    saving = {}
    if args.backend == "torch":
        save_every = max(1, args.steps // 10) if args.save_every is None else args.save_every
        saving = {"settings": settings, "save_every": save_every, "resume": args.resume}
    options = dict(backend=args.backend, device=device, compile=args.compile)
    options |= dict(shard=args.shard, recompute=args.recompute, tensorboard=args.tensorboard)
    tok = open_tokenizer(args.out)
    _, result = pretrain(tok, args.out, shape, schedule, args.batch_size, args.seed, **options, **saving)

    # report
    if result:
        write_json(args.out / "results.json", result)
        print(f"  validation loss {told(result['val_loss'])} after {result['steps']} steps, ", end="")
        print(f"{result['bits_per_byte']:.3f} bits per byte of the text")
        there = f"in {args.out}: the model, log.jsonl, loss.png"
        print(visible(f"  {there}; make generate MODEL={args.out} PROMPT=… continues a text"))


def parsed() -> argparse.Namespace:
    """The command line's flags."""
    parser = Parser(__doc__, prog="scripts.pretrain")
    parser.add_argument(
        "--data", nargs="+", required=True, help="text files or quoted patterns; <|endoftext|> separates documents"
    )
    parser.add_argument(
        "--out", type=file_name, default=Path("runs/pretrain"), help="run directory to write (default: %(default)s)"
    )
    parser.add_argument("--overwrite", action="store_true", help="overwrite an existing model")
    parser.add_argument(
        "--resume",
        nargs="?",
        const="newest",
        metavar="STEP",
        help="resume from the newest save or from this step",
    )
    parser.add_argument(
        "--save-every", type=whole(0), help="steps between saves, 0 for none (default: a tenth of the run)"
    )
    parser.add_argument(
        "--device", choices=["auto", "cpu", "cuda"], default="auto", help="auto: cuda if there is one (default)"
    )
    parser.add_argument("--compile", action="store_true", help="torch.compile the model: pays after some minutes")
    parser.add_argument("--shard", action="store_true", help="each process of torchrun holds a share of the model")
    parser.add_argument("--recompute", action="store_true", help="keep few activations: less memory, more time")
    parser.add_argument("--tensorboard", action="store_true", help="write the curves for TensorBoard, too (an extra)")
    parser.add_argument("--vocab-size", type=int, default=VOCAB_SIZE, help="tokens at most (default: %(default)s)")
    parser.add_argument("--batch-size", type=whole(1), default=BATCH_SIZE, help="rows per step (default: %(default)s)")
    parser.add_argument("--backend", choices=["torch", "numpy"], default="torch", help="numpy: the twin, by hand")
    parser.add_argument("--seed", type=whole(0), default=0, help="draws weights and order (default: %(default)s)")
    for name, value in (SHAPE | SCHEDULE).items():
        flag = f"--{name.replace('_', '-')}"
        default = None if name in SCHEDULE else value  # the schedule's depend on the backend
        parser.add_argument(flag, type=type(value), default=default, help=f"(default: {value})")
    return parser.parse_args()


if __name__ == "__main__":
    run(main)
