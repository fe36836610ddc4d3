"""The batches that training sees, cut from one long row of ids (P1).

The end token stands before every document, and once more at the very end. So a document's inputs and its targets,
which are the inputs shifted by one, are both plain slices of the row.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from .config import COUNT, check

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
        shape = len(inputs), max(map(len, inputs))  # (B, T)
        x, y = np.zeros(shape, np.int64), np.full(shape, IGNORE, np.int64)
        for i, (ids, next_ids) in enumerate(zip(inputs, targets)):
            x[i, : len(ids)] = ids
            y[i, : len(next_ids)] = next_ids
        return cls(torch.from_numpy(x), torch.from_numpy(y))

    def learnt(self) -> int:
        """How many targets are learnt: what the loss is divided by."""
        return int((self.targets != IGNORE).sum())

    def split(self, pieces: int) -> list["Batch"]:
        """Cut the rows into at most `pieces` batches of about the same size."""
        return [Batch(*piece) for piece in zip(self.inputs.chunk(pieces), self.targets.chunk(pieces))]

    def to(self, device: torch.device | str) -> "Batch":
        return Batch(self.inputs.to(device), self.targets.to(device))


Batches = Callable[[int], Batch]  # a pure function of the step: what makes a run repeatable and resumable


def rows_of(tokens: np.ndarray, end_id: int, context_length: int, offset: int = 0) -> np.ndarray:
    """Cut tokens into rows of at most context_length inputs: (N, 2), where each row starts and stops.

    A document that fits is one row, from its end token on. A longer one is cut every context_length tokens, the first
    time after `offset` of them: another offset in another epoch shows the model other beginnings.

    >>> rows_of(np.array([9, 1, 2, 9, 3, 4, 5, 6, 9]), end_id=9, context_length=3).tolist()
    [[0, 3], [3, 6], [6, 8]]
    """
    borders = np.flatnonzero(tokens == end_id).tolist()
    cuts = borders[:1]  # each row stops where the next one starts
    for start, end in zip(borders, borders[1:]):
        if end - start > context_length:
            cuts.extend(range(start + (offset or context_length), end, context_length))
        cuts.append(end)
    return np.stack([cuts[:-1], cuts[1:]], axis=1)


def token_batches(tokens: np.ndarray, end_id: int, context_length: int, batch_size: int, seed: int = 0) -> Batches:
    """Batches for `train` from (N,) token ids: every row once per epoch, in another order each time.

    batches(step) -> Batch of batch_size rows, a pure function of (seed, step). ValueError without end tokens outside.
    """
    tokens = checked_tokens(tokens, end_id, context_length=context_length, batch_size=batch_size)
    rows_per_epoch = len(rows_of(tokens, end_id, context_length))

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
        places = [divmod(number, rows_per_epoch) for number in numbers]  # each one's epoch, and place in it
        return next_token_batch(tokens, [shuffled_rows(epoch)[place] for epoch, place in places])

    return batches


def all_batches(tokens: np.ndarray, end_id: int, context_length: int, batch_size: int) -> Iterator[Batch]:
    """Every row of the tokens once, rows of similar length together: for `evaluate`."""
    tokens = checked_tokens(tokens, end_id, context_length=context_length, batch_size=batch_size)
    rows = rows_of(tokens, end_id, context_length)
    rows = rows[np.argsort(rows[:, 1] - rows[:, 0], kind="stable")]
    for i in range(0, len(rows), batch_size):
        yield next_token_batch(tokens, rows[i : i + batch_size])


def next_token_batch(tokens: np.ndarray, rows: Iterable[np.ndarray]) -> Batch:
    """The targets are the inputs, one token later."""
    inputs = [tokens[start:stop] for start, stop in rows]
    targets = [tokens[start + 1 : stop + 1] for start, stop in rows]
    return Batch.from_rows(inputs, targets)


def checked_tokens(tokens: np.ndarray, end_id: int, **numbers: int) -> np.ndarray:
    """The tokens as an array. ValueError when batches can't be cut from them, or for a number out of range."""
    check(numbers, numbers, lambda number: COUNT[0](number) and number < 2**24, f"{COUNT[1]}, below 2**24")
    tokens = np.asarray(tokens)
    if tokens.ndim != 1 or len(tokens) < 2 or not tokens[0] == tokens[-1] == end_id:
        raise ValueError(f"nothing to learn from: must be one row of ids with the end token {end_id} at both ends")
    return tokens
