"""Show demonstrations as fine-tuning sees them: what is learnt in colour, what is given in grey (S3).

python -m scripts.show_sft --data mine.jsonl --n 3 --model base
"""

import sys

from scripts.support.command_line import Parser, file_name, run, whole
from scripts.support.terminal import GREY, RESET, piece_of, visible

LEARNT = ["\033[30;42m", "\033[30;46m"]  # two colours that take turns, so that each token shows
GIVEN = [GREY, "\033[4;90m"]


def main() -> None:
    parser = Parser(__doc__, prog="scripts.show_sft")
    parser.add_argument("--data", required=True, type=file_name, help="demonstrations, .jsonl or .json")
    parser.add_argument("--model", default="base", help="whose tokenizer, layout and context (default: %(default)s)")
    parser.add_argument("--n", type=whole(0), default=3, help="how many to show (default: %(default)s)")
    parser.add_argument("--loss-on", choices=["response", "all"], default="response", help="(default: %(default)s)")
    parser.add_argument("--skip-bad", action="store_true", help="leave out rows that are invalid, and list them")
    args = parser.parse_args()
    from scripts.support.models import open_model
    from sft import encode_conversation, encode_examples, read_examples

    # read
    skipped = [] if args.skip_bad else None
    examples = read_examples(args.data, skipped)
    model, tok = open_model(args.model)
    rows = encode_examples(tok, examples, model.context_length, args.loss_on, skipped)
    here = {*rows.sources}

    # show a few
    for example in [example for example in examples if example.source in here][: args.n]:
        ids, learn = encode_conversation(tok, example.messages)
        if args.loss_on == "all":
            learn = [False] + [True] * (len(ids) - 1)  # nothing comes before the first token to predict it
        fits = model.context_length + 1
        cut = f", {len(ids) - fits} more are cut off" if len(ids) > fits else ""
        ids, learn = ids[:fits], learn[:fits]
        print(visible(f"{example.source}: {sum(learn)} of {len(ids)} tokens learnt{cut}"))
        print(f"  {marked(tok, ids, learn, sys.stdout.isatty())}")

    # count all
    for problem in skipped or []:
        print(visible(f"skipped {problem}"))
    learnt = sum(sum(row[1:]) for row in rows.learn)
    tokens = sum(len(row) for row in rows.ids)
    print(f"{len(examples):,} demonstrations: {learnt:,} of {tokens:,} tokens learnt, {learnt / tokens:.0%}; ", end="")
    print(f"{rows.truncated:,} truncated to {model.context_length} tokens, {rows.dropped:,} dropped, ", end="")
    print(f"{len(skipped or []):,} skipped")


def marked(tok, ids: list[int], learn: list[bool], colour: bool) -> str:
    """A conversation, token by token; without colour, learnt tokens stand in brackets."""
    pieces = [piece_of(tok, id).replace("\n", "⏎") for id in ids]
    if colour:
        marks = [(LEARNT if learnt else GIVEN)[n % 2] for n, learnt in enumerate(learn)]
        return "".join(f"{mark}{piece}{RESET}" for mark, piece in zip(marks, pieces))
    return "".join(f"[{piece}]" if learnt else f"{piece}|" for piece, learnt in zip(pieces, learn))


if __name__ == "__main__":
    run(main)
