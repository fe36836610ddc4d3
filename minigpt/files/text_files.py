"""Text files, read as documents: a block at a time, so a file may exceed memory, and one document may too."""

import re
from collections.abc import Iterable, Iterator
from glob import glob
from itertools import chain
from pathlib import Path

from ..corpus import Piece
from ..tokenizer import END, several

BLOCK = 2**16  # characters read at once; only a longer document is cut
LAST_WORD = re.compile(r".*[^\W_](?=[\s.,;:!?、。，！？])", re.DOTALL)  # a text up to the end of its last whole word


class Corpus:
    """The documents of text files, read anew each time and never held all at once."""

    def __init__(self, paths: list[str]):
        self.paths = paths

    def __iter__(self) -> Iterator[Piece]:
        for path in self.paths:
            piece = None
            for piece in cut_documents(read_blocks(path)):
                yield piece
            if piece is None:
                raise ValueError(f"{path}: the file is empty, it must hold text")


def read_corpus(patterns: Iterable[str]) -> Corpus:
    """All text files of these names, or that match these patterns; <|endoftext|> separates documents in a file."""
    paths = []
    for pattern in map(str, several(patterns, "patterns")):
        found = [pattern] if Path(pattern).exists() else sorted(glob(pattern))
        if not found:
            raise FileNotFoundError(f"{pattern}: no such file")
        if odd := [path for path in found if not Path(path).is_file()]:
            raise ValueError(f"{odd[0]}: must be a file that can be read more than once")
        paths += found
    return Corpus(paths)


def read_blocks(path: str) -> Iterator[str]:
    """A text file, BLOCK characters at a time. ValueError names the first byte that is not UTF-8."""
    with open(path, encoding="utf-8-sig") as file:
        try:
            while block := file.read(BLOCK):
                yield block
        except UnicodeDecodeError as problem:
            # problem.object is what was decoded last: it ends where reading has stopped
            byte = file.buffer.tell() - len(problem.object) + problem.start
            raise ValueError(f"{path}: not UTF-8 text, byte {byte} is {problem.object[problem.start]:#x}") from problem


def cut_documents(blocks: Iterable[str]) -> Iterator[Piece]:
    """Cut a text into documents, without the line breaks around them, and long documents into pieces.

    The joined ids of the pieces are those of the document: a piece ends where every tokenizer ends a chunk, between a
    letter or digit and the space or sign after it. A document without such a place stays whole.

    >>> list(cut_documents(["low<|endof", "text|>low", "er"]))
    [Piece(text='low', begins=True), Piece(text='lower', begins=True)]
    """
    held: list[str] = []  # the beginning of a long document, which has no place to cut it at
    text = ""  # what has been read after it
    begins = True  # does a document begin with them?
    for block in chain(blocks, [END]):
        *ended, text = (text + block).split(END)

        # documents that end in this block; of a long one, the last piece
        for document in ended:
            document = "".join([*held, document])
            document = document.strip("\r\n") if begins else document.rstrip("\r\n")
            if document.strip() or (document and not begins):
                yield Piece(document, begins)
            held, begins = [], True

        # a long document that goes on: nothing is searched twice but the end, where a separator may have begun
        if len(text) > BLOCK and (found := LAST_WORD.match(text)):
            words = "".join([*held, found[0]])
            yield Piece(words.lstrip("\r\n") if begins else words, begins)
            held, text, begins = [], text[found.end() :], False
        elif len(text) > BLOCK:
            held.append(text[: -len(END)])
            text = text[-len(END) :]
