"""Examples -> ids and masks of what is learnt -> Batches (S4, S5)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from minigpt.config import COUNT, check
from minigpt.data import IGNORE, Batch, Batches
from minigpt.tokenizer import Tokenizer

from .files.chat_template import require_layout
from .template import Message, encode_conversation

MIXING = 1.25  # lengths in a batch differ by about this factor; nearer 1: less padding, and batches too alike


@dataclass(frozen=True)
class Example:
    """A conversation to learn from, where it was read ("file:line"), and the columns there that were left out."""

    messages: list[Message]
    source: str = "an example"
    left_out: tuple[str, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class Rows:
    """Encoded examples, cut to the context."""

    ids: list[list[int]]
    learn: list[list[bool]]
    truncated: int  # how many examples lost their end
    dropped: int  # how many of these lost the whole response, and are not here
    sources: Sequence[str] = ()  # of each row, where its example was read


def encode_examples(
    tok: Tokenizer, examples: list[Example], context_length: int, loss_on="response", skipped: list[str] | None = None
) -> Rows:
    """Encode examples for training. loss_on: "response", or "all" for every token, the lecture's plain form.

    ValueError when an example can't be laid out or has no response; with a list `skipped`, that is added to it instead.
    ValueError when the tokenizer has no layout, or when no example fits in the context at all.
    """
    if loss_on not in ("response", "all"):
        raise ValueError(f"loss_on={loss_on!r}: must be 'response' or 'all'")
    require_layout(tok)
    longest = context_length + 1  # the last id is a target only
    kept, learn, sources, truncated, dropped = [], [], [], 0, 0
    for example in examples:
        # lay out
        try:
            ids, learnt = encode_conversation(tok, example.messages)
            if not any(learnt):
                raise ValueError("there is no response to learn")
        except ValueError as problem:
            if skipped is None:
                raise ValueError(f"{example.source}: {problem}") from problem
            skipped.append(f"{example.source}: {problem}")
            continue

        # cut to the context
        truncated += len(ids) > longest
        if not any(learnt[:longest]):
            dropped += 1
            continue
        kept.append(ids[:longest])
        learn.append(learnt[:longest] if loss_on == "response" else [True] * len(kept[-1]))
        sources.append(example.source)

    if not kept:
        raise ValueError(f"no response begins within the context of {context_length} tokens: nothing would be learnt")
    return Rows(kept, learn, truncated, dropped, sources)


def collate(rows: Rows, picks: list[int]) -> Batch:
    """Rows as a Batch: targets are the ids shifted by one, IGNORE where they are not learnt (S5)."""
    inputs = [rows.ids[i][:-1] for i in picks]
    shifted = [zip(rows.ids[i][1:], rows.learn[i][1:]) for i in picks]
    targets = [[id if learnt else IGNORE for id, learnt in row] for row in shifted]
    return Batch.from_rows(inputs, targets)


def example_batches(rows: Rows, batch_size: int, seed: int = 0) -> Batches:
    """Batches for `train`: every row once per epoch, each epoch in its own order, like lengths together."""
    check({"batch_size": batch_size}, ["batch_size"], *COUNT)

    @lru_cache(maxsize=1)
    def picks(epoch: int) -> list[list[int]]:
        return epoch_picks(rows, batch_size, seed, epoch)

    steps_per_epoch = len(picks(0))

    def batches(step: int) -> Batch:
        epoch, place = divmod(step, steps_per_epoch)
        return collate(rows, picks(epoch)[place])

    return batches


def epoch_picks(rows: Rows, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """The rows of each batch of an epoch: sort by length with some noise, cut, and shuffle the batches."""
    rng = np.random.default_rng([seed, epoch])
    lengths = np.array([len(ids) for ids in rows.ids])
    noise = rng.uniform(1, MIXING, len(lengths))
    order = np.argsort(lengths * noise)
    picks = np.array_split(order, math.ceil(len(order) / batch_size))
    return [picks[i].tolist() for i in rng.permutation(len(picks))]


def mix(*parts: Batches) -> Batches:
    """Batches that join the rows of several: demonstrations, and base documents against forgetting."""

    def batches(step: int) -> Batch:
        found = [part(step) for part in parts]
        inputs = [row for batch in found for row in batch.inputs.tolist()]
        targets = [row for batch in found for row in batch.targets.tolist()]
        return Batch.from_rows(inputs, targets)

    return batches
