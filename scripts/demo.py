"""The whole lecture in one command: corpus, tokenizer, base model, decoding, fine-tuning, answers.

python -m scripts.demo --out runs/demo --seed 0
"""

import argparse
from pathlib import Path

from scripts.support.command_line import run


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts.demo", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="overwritten (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="draws the world, the weights and the order")
    parser.add_argument("--quick", action="store_true", help="the same code with a small world and few steps")
    parser.add_argument("--no-quiz", action="store_true", help="a corpus without the quiz pages that bring out S1")
    parser.add_argument("--memorised", action="store_true", help="one fixed wording per person")
    args = parser.parse_args()
    from scripts.support import demo_chapters

    demo_chapters.tell(args.out, args.seed, quick=args.quick, quiz=not args.no_quiz, memorised=args.memorised)


if __name__ == "__main__":
    run(main)
