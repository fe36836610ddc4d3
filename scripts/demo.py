"""The whole lecture in one command: corpus, tokenizer, base model, decoding, fine-tuning, answers.

python -m scripts.demo --out runs/demo --seed 0
"""

from pathlib import Path

from scripts.support.command_line import Parser, file_name, run, whole
from scripts.support.run_directory import locked, refuse_foreign

MADE = ["results.json", "report.html", "world", "base", "sft", "smaller"]


def main() -> None:
    parser = Parser(__doc__, prog="scripts.demo")
    parser.add_argument(
        "--out",
        type=file_name,
        default=Path("runs/demo"),
        help="an earlier demo there is overwritten (default: %(default)s)",
    )
    parser.add_argument("--seed", type=whole(0), default=0, help="draws the world, the weights and the order")
    parser.add_argument("--quick", action="store_true", help="the same code with a small world and few steps")
    parser.add_argument("--no-quiz", action="store_true", help="a corpus without the quiz pages that bring out S1")
    parser.add_argument("--memorised", action="store_true", help="one fixed wording per person")
    args = parser.parse_args()
    refuse_foreign(args.out, MADE, mark="world/documents.txt")
    from scripts.support import demo_chapters

    with locked(args.out):
        demo_chapters.tell(args.out, args.seed, quick=args.quick, quiz=not args.no_quiz, memorised=args.memorised)


if __name__ == "__main__":
    run(main)
