"""Show how a tokenizer cuts a text: the pieces in colour, with their ids (P1).

python -m scripts.tokens --text "Meet Selma, who lives in Porto."
"""

import argparse
from pathlib import Path

from scripts.support.common import GREY, RESET, run

COLOURS = ["\033[30;46m", "\033[30;43m", "\033[30;42m", "\033[30;45m"]


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts.tokens", description=__doc__.split("\n")[0])
    parser.add_argument("--text", required=True)
    parser.add_argument("--model", help="whose tokenizer (default: the demo's, or one trained now)")
    args = parser.parse_args()
    from minigpt import Tokenizer
    from minigpt.files.tokenizer_json import from_json
    from scripts import toyworld
    from scripts.pretrain import VOCAB_SIZE

    directory = Path(args.model or "runs/demo/base")
    if args.model or (directory / "tokenizer.json").exists():
        if not (directory / "tokenizer.json").exists():
            raise FileNotFoundError(f"{directory}: tokenizer.json is missing")
        tok, source = from_json((directory / "tokenizer.json").read_text()), str(directory)
    else:
        tok, source = Tokenizer.train(toyworld.build(0).documents, VOCAB_SIZE), "the toy world's text"
    ids = tok.encode(args.text)
    pieces = [tok.token_bytes(i).decode("utf-8", errors="replace") for i in ids]
    print("".join(f"{COLOURS[n % 4]}{piece}{RESET}" for n, piece in enumerate(pieces)))
    print("  ".join(f"{piece!r} {GREY}{i}{RESET}" for piece, i in zip(pieces, ids)))
    size = len(args.text.encode())
    print(f"{len(ids)} tokens for {size} bytes; a vocabulary of {tok.vocab_size}, learnt from {source}")


if __name__ == "__main__":
    run(main)
