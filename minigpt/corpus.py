"""Documents -> training and validation text -> tokenizer -> token ids (P1).

A corpus is anything that gives its Pieces anew each time it is gone through: a list, or the text files that
files/text_files.py reads as a stream, since a corpus may exceed memory. files/token_file.py writes the ids to disk.
"""

import math
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from .tokenizer import Tokenizer

SAMPLE = 16_000_000  # characters at most that the tokenizer is trained on


class Piece(NamedTuple):
    """A document, or a part of a long one: begins is False when the piece before it belongs to the same document."""

    text: str
    begins: bool = True


def split(corpus: Iterable[Piece]) -> Sequence[int]:
    """How many characters of each document are training text; the rest of it is for validation.

    Of 20 documents or more, the last twentieth is for validation; of fewer, the last tenth of each.

    >>> list(split([Piece("low lower lowest"), Piece("new "), Piece("newer", begins=False)]))
    [14, 8]
    """
    lengths = array("q")  # not a list: a corpus may hold many millions of documents
    for piece in corpus:
        if piece.begins:
            lengths.append(0)
        lengths[-1] += len(piece.text)

    if len(lengths) >= 20:
        validation = len(lengths) // 20
        return lengths[:-validation] + array("q", [0]) * validation
    return array("q", [length * 9 // 10 for length in lengths])


def part_of(corpus: Iterable[Piece], borders: Sequence[int], part: str) -> Iterator[Piece]:
    """Each document up to its border (part="train"), or from there on (part="val")."""
    borders = iter(borders)
    for piece in corpus:
        if piece.begins:
            border = next(borders)  # counted from the start of the piece: below 0 if an earlier piece had it
        if part == "train" and border > 0:
            yield Piece(piece.text[:border], piece.begins)
        if part == "val" and border < len(piece.text):
            yield Piece(piece.text[max(border, 0) :], begins=border >= 0)
        border -= len(piece.text)


def learn_vocabulary(corpus: Iterable[Piece], borders: Sequence[int], vocab_size: int) -> tuple[Tokenizer, int]:
    """A tokenizer trained on every n-th piece of the training text, at most SAMPLE characters; and this n."""
    every = max(1, math.ceil(sum(borders) / SAMPLE))
    pieces = islice(part_of(corpus, borders, "train"), 0, None, every)
    return Tokenizer.train((piece.text for piece in pieces), vocab_size), every


def encode(tok: Tokenizer, pieces: Iterable[Piece]) -> Iterator[list[int]]:
    """The ids of a token file, piece by piece: an end token before every document, and one more at the very end."""
    for piece in pieces:
        ids = tok.encode(piece.text)
        yield [tok.end_id, *ids] if piece.begins else ids
    yield [tok.end_id]
