"""Show how a tokenizer cuts a text: the pieces in colour, with their ids (P1).

python -m scripts.tokens --text "Meet Selma, who lives in Porto."
"""

from pathlib import Path

from scripts.support.command_line import Parser, run
from scripts.support.terminal import GREY, RESET, piece_of, visible

COLOURS = ["\033[30;46m", "\033[30;43m", "\033[30;42m", "\033[30;45m"]
DEMO = Path("runs/demo/base")


def main() -> None:
    parser = Parser(__doc__, prog="scripts.tokens")
    parser.add_argument("--text", required=True, help="the text to cut")
    parser.add_argument(
        "--model",
        help="whose tokenizer: base, sft, smollm, gpt2 or a run directory (default: the demo's, or one trained now)",
    )
    args = parser.parse_args()
    from scripts.support.models import tokenizer_of, toy_tokenizer

    if args.model or (DEMO / "tokenizer.json").exists():
        tok = tokenizer_of(args.model or str(DEMO))
        source = args.model or DEMO
    else:
        tok = toy_tokenizer()
        source = "the toy world's text, learnt just now"
    show(tok, args.text)
    print(visible(f"a vocabulary of {tok.vocab_size}, that of {source}"))


def show(tok, text: str) -> None:
    """Print the pieces in turning colours, then each with its id, and how many there are."""
    ids = tok.encode(text)
    pieces = [piece_of(tok, id) for id in ids]
    print("".join(f"{COLOURS[n % 4]}{piece}{RESET}" for n, piece in enumerate(pieces)))
    print("  ".join(f"{piece!r} {GREY}{id}{RESET}" for piece, id in zip(pieces, ids)))
    print(f"{len(ids)} tokens for {len(text.encode(errors='surrogatepass'))} bytes; ", end="")


if __name__ == "__main__":
    run(main)
