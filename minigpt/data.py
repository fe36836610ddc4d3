"""Token files on disk, and the batches that training sees (P1).

A token file is one long row of ids. The end token stands before every document, and once more at the very end.
So a document's inputs and its targets, which are the inputs shifted by one, are both plain slices of the file.
"""

from array import array
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
        padded_inputs = np.zeros((len(inputs), longest), dtype=np.int64)  # (B, T)
        padded_targets = np.full((len(inputs), longest), IGNORE)  # (B, T)
        for i, (row, target) in enumerate(zip(inputs, targets)):
            padded_inputs[i, : len(row)] = row
            padded_targets[i, : len(target)] = target
        return cls(torch.from_numpy(padded_inputs), torch.from_numpy(padded_targets))

    def learnt(self) -> int:
        """How many targets are learnt: what the loss is divided by."""
        return int((self.targets != IGNORE).sum())

    def split(self, pieces: int) -> list["Batch"]:
        """Cut the rows into at most `pieces` batches of about the same size."""
        return [Batch(*piece) for piece in zip(self.inputs.chunk(pieces), self.targets.chunk(pieces))]

    def to(self, device: torch.device | str) -> "Batch":
        return Batch(self.inputs.to(device), self.targets.to(device))


Batches = Callable[[int], Batch]  # a pure function of the step: what makes a run repeatable and resumable


def write_tokens(path: Path | str, documents: Iterable[list[int]], end_id: int, vocab_size: int) -> int:
    """Write documents as one token file; return its token count."""
    return write_ids(path, chain(([end_id, *ids] for ids in documents), [[end_id]]), vocab_size)


def write_ids(path: Path | str, pieces: Iterable[list[int]], vocab_size: int) -> int:
    """Write ids that come in pieces, end tokens among them, as a token file; return how many there are.

    The file is a .npy of uint16, or of uint32 for a large vocabulary. Its length is filled in at the end, so a corpus
    may exceed memory. When writing fails, nothing is left behind, and an older file stays.
    """
    dtype = np.dtype(np.uint16 if vocab_size <= 2**16 else np.uint32)
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (0,)}
    with written_whole(path) as aside, open(aside, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        start = file.tell()
        for ids in pieces:
            file.write(np.array(ids, dtype).tobytes())
        count = (file.tell() - start) // dtype.itemsize

        # now the length is known; NumPy pads a header so that a longer shape still fits in it
        file.seek(0)
        np.lib.format.write_array_header_1_0(file, header | {"shape": (count,)})
    return count


def read_tokens(path: Path | str) -> np.ndarray:
    """Map a token file into memory: (N,) unsigned integers, read from disk as they are used."""
    return np.load(path, mmap_mode="r")


def rows_of(tokens: np.ndarray, end_id: int, context_length: int, offset: int = 0) -> np.ndarray:
    """Cut a token file into rows of at most context_length inputs: (N, 2), where each row starts and stops.

    A document that fits is one row, from its end token on. A longer one is cut every context_length tokens, the first
    time after `offset` of them, so that another offset in another epoch shows the model other beginnings.

    >>> rows_of(np.array([9, 1, 2, 9, 3, 4, 5, 6, 9]), end_id=9, context_length=3).tolist()
    [[0, 3], [3, 6], [6, 8]]
    """
    rows = array("q")
    borders = np.flatnonzero(tokens == end_id).tolist()
    for start, end in zip(borders, borders[1:]):
        # the first row of a long document may be a short one
        long = end - start > context_length
        length = offset if long and offset > 0 else context_length

        while start < end:
            stop = min(start + length, end)
            rows.extend((start, stop))
            start, length = stop, context_length
    return np.array(rows, np.int64).reshape(-1, 2)


def token_batches(tokens: np.ndarray, end_id: int, context_length: int, batch_size: int, seed: int = 0) -> Batches:
    """Batches of a token file for `train`: every row once per epoch, in another order each time.

    batches(step) -> Batch of batch_size rows, a pure function of (seed, step). ValueError when the file has no token.
    """
    rows_per_epoch = len(rows_of(tokens, end_id, context_length))
    if rows_per_epoch == 0:
        raise ValueError("there is nothing to learn from: the token file holds no document")

    @lru_cache(maxsize=2)  # a batch may take its rows from two epochs
    def shuffled_rows(epoch: int) -> np.ndarray:
        # cut long documents at another offset
        random = np.random.default_rng([seed, epoch])
        offset = int(random.integers(context_length))
        rows = rows_of(tokens, end_id, context_length, offset)

        # shuffle; an offset can add rows, and this many are left out, others in each epoch
        return rows[random.permutation(len(rows))[:rows_per_epoch]]

    def batches(step: int) -> Batch:
        numbers = range(step * batch_size, (step + 1) * batch_size)  # rows counted from the start of the run
        return _batch(tokens, [shuffled_rows(i // rows_per_epoch)[i % rows_per_epoch] for i in numbers])

    return batches


def all_batches(tokens: np.ndarray, end_id: int, context_length: int, batch_size: int) -> Iterator[Batch]:
    """Every row of a token file once, rows of similar length together: for `evaluate`."""
    rows = rows_of(tokens, end_id, context_length)
    lengths = rows[:, 1] - rows[:, 0]
    rows = rows[np.argsort(lengths, kind="stable")]
    for i in range(0, len(rows), batch_size):
        yield _batch(tokens, rows[i : i + batch_size])


def _batch(tokens: np.ndarray, rows: Iterable[np.ndarray]) -> Batch:
    """The targets are the inputs, one token later."""
    inputs = [tokens[start:stop] for start, stop in rows]
    targets = [tokens[start + 1 : stop + 1] for start, stop in rows]
    return Batch.from_rows(inputs, targets)
