"""The documents of text files, read anew each time and never held all at once."""

import re
from collections.abc import Iterable, Iterator
from itertools import chain

SEPARATOR = "<|endoftext|>"  # between two documents of a file
BLOCK = 2**16  # characters that are read at once; only a longer document is cut
LAST_WORD = re.compile(r".*[^\W_](?=[\s.,;:!?、。，！？])", re.DOTALL)  # a text up to the end of its last whole word


class Rest(str):
    """A piece of a document that goes on where the piece before it ended."""


class Corpus:
    """The documents of text files, read anew each time somebody goes through them and never held all at once.

    A document longer than BLOCK characters comes in pieces, all but the first of them a Rest.
    """

    def __init__(self, paths: list[str]):
        self.paths = paths

    def __iter__(self) -> Iterator[str]:
        for path in self.paths:
            empty = True
            for piece in cut_documents(read_blocks(path)):
                empty = False
                yield piece
            if empty:
                raise ValueError(f"{path}: the file is empty, it must hold text")


def read_corpus(patterns: Iterable[str]) -> Corpus:
    """All text files that match the patterns; <|endoftext|> separates documents within a file."""
    from glob import glob

    paths = []
    for pattern in patterns:
        found = sorted(glob(pattern))
        if not found:
            raise FileNotFoundError(f"{pattern}: no such file")
        paths += found
    return Corpus(paths)


def read_blocks(path: str) -> Iterator[str]:
    """A text file, BLOCK characters at a time."""
    with open(path, encoding="utf-8-sig") as file:
        try:
            while block := file.read(BLOCK):
                yield block
        except UnicodeDecodeError as problem:
            byte = file.buffer.tell() - len(problem.object) + problem.start  # the object ends where reading stopped
            raise ValueError(f"{path}: not UTF-8 text, byte {byte} is {problem.object[problem.start]:#x}") from problem


def cut_documents(blocks: Iterable[str]) -> Iterator[str]:
    """Cut a text into documents, and long ones into pieces, whose ids in a row are those of the whole document.

    So a piece ends where every tokenizer's chunks end: between a letter or digit and the space or the sign after it.
    A document without such a place comes in one piece, whatever its length.
    """
    text, begun = "", False  # what has been read and not passed on; has this document's first piece been passed on?
    for block in chain(blocks, [SEPARATOR]):
        *ended, text = (text + block).split(SEPARATOR)
        for document in ended:
            if begun:
                last = document.rstrip("\r\n")
                if last:
                    yield Rest(last)
            elif document.strip():
                yield document.strip("\r\n")
            begun = False
        if len(text) > BLOCK and (piece := LAST_WORD.match(text)):
            yield Rest(piece[0]) if begun else piece[0].lstrip("\r\n")
            text, begun = text[piece.end() :], True
