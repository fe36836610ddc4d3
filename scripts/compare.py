"""Every algorithm on one prompt: what it writes, and what it does to the probabilities (G1 to G11).

python -m scripts.compare --prompt "Meet Selma. She" --model base --runs 5
"""

from pathlib import Path

from scripts.support.command_line import Parser, file_name, run, whole
from scripts.support.run_directory import locked, refuse_foreign, write_json
from scripts.support.strategies import NEW_TOKENS
from scripts.support.terminal import visible


def main() -> None:
    parser = Parser(__doc__, prog="scripts.compare")
    parser.add_argument("--prompt", required=True, help="the text to continue")
    parser.add_argument("--model", default="base", help="base, sft, smollm or a run directory (default: %(default)s)")
    parser.add_argument(
        "--runs",
        type=whole(2, 1000),
        default=5,
        help="runs of each algorithm, at least 2, to see whether a second one differs",
    )
    parser.add_argument("--seed", type=whole(0), default=0, help="the first run's seed (default: %(default)s)")
    parser.add_argument("--max-new-tokens", type=whole(1), default=NEW_TOKENS, help="(default: %(default)s)")
    parser.add_argument("--out", type=file_name, default=Path("runs/compare"), help="(default: %(default)s)")
    args = parser.parse_args()
    refuse_foreign(args.out, ["compare.html"], mark="trace.json")
    from scripts.support import comparison
    from scripts.support.models import open_model
    from scripts.support.report import write_comparison

    model, tok = open_model(args.model)
    trace = comparison.trace(
        model, tok, args.prompt, look_at=args.prompt, seed=args.seed, runs=args.runs, new_tokens=args.max_new_tokens
    )
    with locked(args.out):
        write_json(args.out / "trace.json", trace)
        write_comparison(args.out, trace)
    comparison.show(trace)
    comparison.show_tasks(trace)
    print(visible(f"\n  pictures in {args.out}/compare.html, the data in {args.out}/trace.json"))


if __name__ == "__main__":
    run(main)
