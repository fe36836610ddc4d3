"""Show demonstrations as fine-tuning sees them: what is learnt in colour, what is given in grey (S3).

python -m scripts.show_sft --data mine.jsonl --n 3 --model base
"""

import argparse
import sys
from pathlib import Path

from scripts.support.common import GREY, RESET, open_model, run

LEARNT, GIVEN = ["\033[30;42m", "\033[30;46m"], [GREY, "\033[4;90m"]  # by turns, so that each token shows


def show(tok, ids: list[int], learn: list[bool], colour: bool) -> str:
    """A conversation, token by token; without colour, learnt tokens stand in brackets."""
    pieces = [tok.token_bytes(i).decode("utf-8", errors="replace").replace("\n", "⏎") for i in ids]
    if colour:
        marks = [(LEARNT if learnt else GIVEN)[n % 2] for n, learnt in enumerate(learn)]
        return "".join(f"{mark}{piece}{RESET}" for mark, piece in zip(marks, pieces))
    return "".join(f"[{piece}]" if learnt else f"{piece}|" for piece, learnt in zip(pieces, learn))


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts.show_sft", description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, type=Path, help="demonstrations, .jsonl or .json")
    parser.add_argument("--model", default="base", help="whose tokenizer, layout and context (default: %(default)s)")
    parser.add_argument("--n", type=int, default=3, help="how many to show (default: %(default)s)")
    parser.add_argument("--loss-on", default="response", help="response or all (default: %(default)s)")
    parser.add_argument("--skip-bad", action="store_true", help="leave out rows that don't fit, and list them")
    args = parser.parse_args()
    from sft import encode_conversation, encode_examples, read_examples

    skipped = [] if args.skip_bad else None
    examples = read_examples(args.data, skipped)
    model, tok = open_model(args.model)
    rows = encode_examples(tok, examples, model.context_length, args.loss_on)
    for example in examples[: args.n]:
        ids, learn = encode_conversation(tok, example.messages)
        if args.loss_on == "all":
            learn = [False] + [True] * (len(ids) - 1)  # the first token is nobody's target
        cut = max(0, len(ids) - model.context_length - 1)
        ids, learn = ids[: len(ids) - cut], learn[: len(ids) - cut]
        print(
            f"{example.source}: {sum(learn)} of {len(ids)} tokens learnt" + (f", {cut} more are cut off" if cut else "")
        )
        print(f"  {show(tok, ids, learn, sys.stdout.isatty())}")
    for problem in skipped or []:
        print(f"skipped {problem}")
    learnt, tokens = sum(sum(row[1:]) for row in rows.learn), sum(map(len, rows.ids))
    print(f"{len(examples):,} demonstrations: {learnt:,} of {tokens:,} tokens learnt, {learnt / tokens:.0%}; ", end="")
    print(f"{rows.truncated:,} truncated to {model.context_length} tokens, {rows.dropped:,} dropped, ", end="")
    print(f"{len(skipped or []):,} skipped")


if __name__ == "__main__":
    run(main)
