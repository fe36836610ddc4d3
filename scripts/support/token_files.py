"""The token files of a run, for training and for validation."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from minigpt import Tokenizer
from minigpt.corpus import Piece, encode, part_of
from minigpt.files.token_file import write_ids
from scripts.support.terminal import show_reading


def write_token_files(directory: Path, tok: Tokenizer, corpus: Iterable[Piece], borders: Sequence[int]) -> None:
    """Write train.npy and val.npy into the directory, and show how far they are."""
    directory.mkdir(parents=True, exist_ok=True)
    for part in ("train", "val"):
        pieces = show_reading(part_of(corpus, borders, part), f"{part}.npy")
        write_ids(directory / f"{part}.npy", encode(tok, pieces), tok.vocab_size)
