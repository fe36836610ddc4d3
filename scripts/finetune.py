"""Fine-tuning: demonstrations -> a model that answers, and what it answered before (S3 to S6).

python -m scripts.finetune --data mine.jsonl --base runs/demo/base --out runs/mine
"""

import argparse
import shlex
from pathlib import Path

from scripts.support.command_line import Parser, file_name, run, whole
from scripts.support.run_directory import locked, refuse_existing, write_json
from scripts.support.terminal import visible
from scripts.support.torchrun import processes

SCHEDULE = {"steps": 160, "lr": 5e-4, "weight_decay": 0.0, "precision": "auto", "micro_batches": 1}
BATCH_SIZE = 32
LARGE = {"steps": 120, "lr": 5e-5, "batch_size": 8}  # what differs for a model of more than 10 M parameters


def read_flags() -> argparse.Namespace:
    parser = Parser(__doc__, prog="scripts.finetune")
    parser.add_argument("--data", required=True, type=file_name, help="demonstrations, .jsonl or .json")
    parser.add_argument("--base", default="base", help="base (the demo's), smollm or a run directory (default: base)")
    parser.add_argument(
        "--out", type=file_name, default=Path("runs/mine"), help="run directory to write (default: %(default)s)"
    )
    parser.add_argument("--overwrite", action="store_true", help="overwrite a model that is already there")
    parser.add_argument("--skip-bad", action="store_true", help="leave out rows that are invalid, and list them")
    parser.add_argument(
        "--corpus", nargs="*", default=[], help="the base model's text, to measure what is forgotten (default: its own)"
    )
    parser.add_argument("--replay", type=float, default=0.0, help="share of base documents in a batch (default: none)")
    parser.add_argument(
        "--answers", type=whole(0), default=100, help="held-out questions to ask (default: %(default)s)"
    )
    parser.add_argument("--max-new-tokens", type=whole(1), default=64, help="of an answer (default: %(default)s)")
    parser.add_argument("--loss-on", choices=["response", "all"], default="response", help="(default: %(default)s)")
    parser.add_argument("--tensorboard", action="store_true", help="write the curves for TensorBoard, too (an extra)")
    parser.add_argument("--seed", type=whole(0), default=0, help="draws what is held out and the order (default: 0)")
    for name, value in defaults().items():
        shown = f"{value}; {LARGE[name]} for a model of more than 10 M parameters" if name in LARGE else value
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=whole(1) if type(value) is int else type(value),
            help=f"(default: {shown})",
        )
    return parser.parse_args()


def defaults() -> dict:
    return SCHEDULE | {"batch_size": BATCH_SIZE}


def chosen(args: argparse.Namespace, model) -> dict:
    """The schedule and the batch size: as the flags say, else the defaults for a model of this size."""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    settings = defaults() | (LARGE if parameters > 10_000_000 else {})
    for name in settings:
        if getattr(args, name) is not None:
            settings[name] = getattr(args, name)
    return settings


def main() -> None:
    args = read_flags()
    if processes() > 1:
        raise ValueError(f"torchrun started {processes()} processes: fine-tuning runs in one, only pretraining in more")
    from scripts.support.stop_and_resume import require_tensorboard  # here: --help can do without torch

    require_tensorboard(args.tensorboard)
    refuse_existing(args.out, args.overwrite)
    with locked(args.out):
        fine_tune_on_file(args)


def fine_tune_on_file(args: argparse.Namespace) -> None:
    """Read the demonstrations, hold some out, train on the others, write the model and its figures, show them."""
    from minigpt import TrainConfig
    from scripts.support import fine_tuning
    from scripts.support.models import open_model, warn_of_forged_turns
    from sft import encode_examples, epoch_picks, read_examples

    # read
    skipped = [] if args.skip_bad else None
    examples = read_examples(args.data, skipped)
    model, tok = open_model(args.base)
    warn_of_forged_turns(tok)
    examples = fine_tuning.fitting(tok, examples, model.context_length, skipped)
    for problem in (skipped or [])[:10]:
        print(visible(f"  skipped {problem}"))

    # hold out and encode: errors come before any work
    schedule = chosen(args, model)
    batch_size = schedule.pop("batch_size")
    examples, held_out = fine_tuning.hold_out(examples, args.seed)
    held_out_rows = encode_examples(tok, held_out, model.context_length) if held_out else None
    training = encode_examples(tok, examples, model.context_length, args.loss_on)
    TrainConfig(**schedule, seed=args.seed)
    replayed = fine_tuning.replayed_rows(args.replay, batch_size) if args.replay else 0
    text = fine_tuning.base_text(args.base, tok, args.corpus, args.out)

    # leave room for base documents in each batch
    replay = None
    if args.replay:
        if not text:
            raise ValueError(f"--replay {args.replay}: needs the base model's text, add --corpus")
        replay = fine_tuning.replay_batches(model, tok, text[0], replayed, args.seed)
    demonstrations = batch_size - replayed

    # say what will be learnt
    picks = epoch_picks(training, demonstrations, args.seed, 0)
    print(visible(f"  {args.base}: {len(examples):,} demonstrations to learn from, {len(held_out):,} held out"))
    if skipped:
        print(f"  {len(skipped):,} rows are invalid and are skipped")
    fine_tuning.show_data(training, picks, model.context_length)

    # look, train, look again
    asked = fine_tuning.questions_of(tok, held_out, model.context_length, args.answers)

    def look() -> fine_tuning.Look:
        return fine_tuning.look(
            model,
            tok,
            held_out_rows,
            asked,
            text,
            batch_size=batch_size,
            max_new_tokens=args.max_new_tokens,
            precision=schedule["precision"],
        )

    before = look()
    fine_tuning.finetune(
        model,
        tok,
        examples,
        args.out,
        schedule=schedule,
        batch_size=demonstrations,
        seed=args.seed,
        base=args.base,
        loss_on=args.loss_on,
        replay=replay,
        tensorboard=args.tensorboard,
    )
    after = look()

    # compare: written first, then shown
    results = {
        "asked": len(asked),
        "padding": fine_tuning.padding(training, picks),
        "before": before.figures,
        "after": after.figures,
    }
    write_json(args.out / "results.json", results)
    fine_tuning.show_before_and_after(asked, before, after)
    print(visible(f"\n  in {args.out}: the model, log.jsonl, loss.png, results.json"))
    print(visible(f"  talk to it: make chat MODEL={shlex.quote(str(args.out))}"))


if __name__ == "__main__":
    run(main)
