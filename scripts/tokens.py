"""Show how a tokenizer cuts a text: the pieces in colour, with their ids (P1).

python -m scripts.tokens --text "Meet Selma, who lives in Porto."
"""

import argparse
from pathlib import Path

from scripts.support.command_line import run
from scripts.support.terminal import GREY, RESET

COLOURS = ["\033[30;46m", "\033[30;43m", "\033[30;42m", "\033[30;45m"]
DEMO = Path("runs/demo/base")


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts.tokens", description=__doc__.split("\n")[0])
    parser.add_argument("--text", required=True, help="the text to cut")
    parser.add_argument("--model", type=Path, help="whose tokenizer (default: the demo's, or one trained now)")
    args = parser.parse_args()
    from scripts.support.models import open_tokenizer, toy_tokenizer

    if args.model or (DEMO / "tokenizer.json").exists():
        tok = open_tokenizer(args.model or DEMO)
        source = args.model or DEMO
    else:
        tok = toy_tokenizer()
        source = "the toy world's text"
    show(tok, args.text)
    print(f"a vocabulary of {tok.vocab_size}, learnt from {source}")


def show(tok, text: str) -> None:
    """Print the pieces in turning colours, then each with its id, and how many there are."""
    ids = tok.encode(text)
    pieces = [tok.token_bytes(id).decode("utf-8", errors="replace") for id in ids]
    print("".join(f"{COLOURS[n % 4]}{piece}{RESET}" for n, piece in enumerate(pieces)))
    print("  ".join(f"{piece!r} {GREY}{id}{RESET}" for piece, id in zip(pieces, ids)))
    print(f"{len(ids)} tokens for {len(text.encode())} bytes; ", end="")


if __name__ == "__main__":
    run(main)
