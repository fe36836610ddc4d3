"""Text files -> documents -> token files, as a stream: a corpus may exceed memory (P1).

A corpus is anything that gives its Pieces anew each time it is gone through: a Corpus of files, or a list.
"""

import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from glob import glob
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

from .files.token_file import write_ids
from .tokenizer import END, Tokenizer, several

BLOCK = 2**16  # characters read at once; only a longer document is cut
SAMPLE = 16_000_000  # characters at most that the tokenizer is trained on
LAST_WORD = re.compile(r".*[^\W_](?=[\s.,;:!?、。，！？])", re.DOTALL)  # a text up to the end of its last whole word


class Piece(NamedTuple):
    """A document, or a part of a long one: begins is False when the piece before it belongs to the same document."""

    text: str
    begins: bool = True


class Corpus:
    """The documents of text files, read anew each time and never held all at once."""

    def __init__(self, paths: list[str]):
        self.paths = paths

    def __iter__(self) -> Iterator[Piece]:
        for path in self.paths:
            empty = True
            for piece in cut_documents(read_blocks(path)):
                empty = False
                yield piece
            if empty:
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
    every = max(1, -(-sum(borders) // SAMPLE))
    pieces = islice(part_of(corpus, borders, "train"), 0, None, every)
    return Tokenizer.train((piece.text for piece in pieces), vocab_size), every


def require_length(tok: Tokenizer, corpus: Iterable[Piece], borders: Sequence[int], context_length: int) -> None:
    """ValueError when the training or the validation text is shorter than one context."""
    for part, name in (("train", "training"), ("val", "validation")):
        found = 0
        for piece in part_of(corpus, borders, part):
            found += len(tok.encode(piece.text))
            if found > context_length:
                break
        else:
            raise ValueError(f"the {name} text has {found} tokens, fewer than one context of {context_length}")


def write_token_files(
    directory: Path, tok: Tokenizer, corpus: Iterable[Piece], borders: Sequence[int], progress: Callable | None = None
) -> None:
    """Write train.npy and val.npy; progress(pieces, name) passes a file's pieces on and shows it."""
    directory.mkdir(parents=True, exist_ok=True)
    for part in ("train", "val"):
        pieces = part_of(corpus, borders, part)
        if progress:
            pieces = progress(pieces, f"{part}.npy")
        write_ids(directory / f"{part}.npy", encode(tok, pieces), tok.vocab_size)


def encode(tok: Tokenizer, pieces: Iterable[Piece]) -> Iterator[list[int]]:
    """The ids of a token file, piece by piece: an end token before every document, and one more at the very end."""
    for piece in pieces:
        ids = tok.encode(piece.text)
        yield [tok.end_id, *ids] if piece.begins else ids
    yield [tok.end_id]
