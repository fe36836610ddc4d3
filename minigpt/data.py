"""Token files on disk, and the batches that training sees (P1).

A token file is one long row of ids in which the end token stands before every document and once more at the very end.
So a document's inputs and its targets, which are the inputs shifted by one, are both plain slices of the file.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .files.writing import written_whole

IGNORE = -100  # a target that is not learnt; PyTorch's own convention


@dataclass(frozen=True)
class Batch:
    """What one training step sees: inputs (B, T) and targets (B, T), int64; a target IGNORE is not learnt.

    >>> Batch.from_rows([[5, 6, 7]], [[6, 7, 8]]).targets
    tensor([[6, 7, 8]])
    """

    inputs: Tensor
    targets: Tensor

    @classmethod
    def from_rows(cls, inputs: list, targets: list) -> "Batch":
        """Pad rows of unequal length on the right: inputs with 0, targets with IGNORE."""
        longest = max(len(row) for row in inputs)
        padded = np.zeros((2, len(inputs), longest), dtype=np.int64)
        padded[1] = IGNORE
        for i, (row, target) in enumerate(zip(inputs, targets)):
            padded[0, i, : len(row)] = row
            padded[1, i, : len(target)] = target
        return cls(*torch.from_numpy(padded))

    def learnt(self) -> int:
        """How many targets are learnt: what the loss is divided by."""
        return int((self.targets != IGNORE).sum())

    def split(self, pieces: int) -> list["Batch"]:
        """Cut the rows into at most `pieces` batches of about the same size."""
        return [Batch(*halves) for halves in zip(self.inputs.chunk(pieces), self.targets.chunk(pieces))]

    def to(self, device: torch.device | str) -> "Batch":
        return Batch(self.inputs.to(device), self.targets.to(device))


Batches = Callable[[int], Batch]  # a pure function of the step: what makes a run repeatable and resumable


def write_tokens(path: Path | str, documents: Iterable[list[int]], end_id: int, vocab_size: int) -> int:
    """Write documents as one token file; return its token count."""
    return write_ids(path, chain(([end_id, *ids] for ids in documents), [[end_id]]), vocab_size)


def write_ids(path: Path | str, pieces: Iterable[list[int]], vocab_size: int) -> int:
    """Write ids that come in pieces, end tokens among them, as a token file; return how many there are.

    The file is a .npy of uint16, or uint32 for a large vocabulary. Its length is filled in at the end, so a corpus may
    exceed memory. When writing fails, nothing is left behind, and a file that was there stays.
    """
    dtype = np.dtype(np.uint16 if vocab_size <= 2**16 else np.uint32)
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (0,)}
    with written_whole(path) as aside, open(aside, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        start = file.tell()
        for ids in pieces:
            file.write(np.array(ids, dtype).tobytes())
        count = (file.tell() - start) // dtype.itemsize
        file.seek(0)
        # NumPy pads a header so that a longer shape still fits in it.
        np.lib.format.write_array_header_1_0(file, header | {"shape": (count,)})
    return count


def read_tokens(path: Path | str) -> np.ndarray:
    """Map a token file into memory: (N,) unsigned integers, read from disk as they are used."""
    return np.load(path, mmap_mode="r")


def rows_of(tokens: np.ndarray, end_id: int, context_length: int, offset: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Cut a token file into rows of at most context_length inputs: their starts and their lengths.

    A document that fits is one row, from its end token on. A longer one is cut every context_length tokens, counted
    from `offset`: another offset in another epoch shows the model other beginnings.

    >>> rows_of(np.array([9, 1, 2, 9, 3, 4, 5, 6, 9]), end_id=9, context_length=3)
    (array([0, 3, 6]), array([3, 3, 2]))
    """
    borders = np.flatnonzero(tokens == end_id)
    first, last = borders[:-1], borders[1:]
    shift = np.where(last - first > context_length, (context_length - offset) % context_length, 0)
    pieces = -(-(last - first + shift) // context_length)
    document = np.repeat(np.arange(len(first)), pieces)
    piece = np.arange(len(document)) - np.repeat(pieces.cumsum() - pieces, pieces)
    cut = first[document] - shift[document] + piece * context_length
    start, stop = np.maximum(cut, first[document]), np.minimum(cut + context_length, last[document])
    return start, stop - start


def token_batches(tokens: np.ndarray, end_id: int, context_length: int, batch_size: int, seed: int = 0) -> Batches:
    """Batches of a token file for `train`: every row once an epoch, each epoch in an order of its own.

    batches(step) -> Batch of batch_size rows, a pure function of (seed, step). ValueError when the file has no token.
    """
    rows_an_epoch = len(rows_of(tokens, end_id, context_length)[0])
    if rows_an_epoch == 0:
        raise ValueError("there is nothing to learn from: the token file holds no document")

    @lru_cache(maxsize=2)
    def epoch_rows(epoch: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng([seed, epoch])
        starts, lengths = rows_of(tokens, end_id, context_length, int(rng.integers(context_length)))
        # A shifted cut makes a few rows more; an epoch leaves out as many, others each time.
        order = rng.permutation(len(starts))[:rows_an_epoch]
        return starts[order], lengths[order]

    def batches(step: int) -> Batch:
        rows = range(step * batch_size, (step + 1) * batch_size)
        picks = [(epoch_rows(row // rows_an_epoch), row % rows_an_epoch) for row in rows]
        return _slices(tokens, [(starts[i], lengths[i]) for (starts, lengths), i in picks])

    return batches


def all_batches(tokens: np.ndarray, end_id: int, context_length: int, batch_size: int) -> Iterator[Batch]:
    """Every row of a token file once, those of like length together: for `evaluate`."""
    starts, lengths = rows_of(tokens, end_id, context_length)
    order = np.argsort(lengths, kind="stable")
    for i in range(0, len(order), batch_size):
        yield _slices(tokens, [(starts[row], lengths[row]) for row in order[i : i + batch_size]])


def _slices(tokens: np.ndarray, rows: list[tuple[int, int]]) -> Batch:
    slices = [tokens[start : start + length + 1] for start, length in rows]
    return Batch.from_rows([row[:-1] for row in slices], [row[1:] for row in slices])
