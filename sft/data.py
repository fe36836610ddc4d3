"""Demonstrations on disk -> Examples -> Batches (S4).

A row's keys tell its format; each row becomes a conversation.
"""

import json
import re
from bisect import bisect
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from minigpt.data import IGNORE, Batch, Batches
from minigpt.tokenizer import Tokenizer

from .template import ROLES, Message, encode_conversation, split_system

# The keys of a prompt, of what may follow it after an empty line, and of the response.
PAIRS = [
    ("prompt", None, "response"),
    ("instruction", "input", "output"),  # Alpaca; MathInstruct, without an input
    ("inputs", None, "targets"),  # FLAN
]
MIXING = 1.25  # lengths in a batch differ by about this factor; nearer 1: less padding, and batches too alike


@dataclass(frozen=True)
class Example:
    """A conversation to learn from, and where it was read: "file:line"."""

    messages: list[Message]
    source: str = "an example"


def read_examples(path: Path | str, skipped: list[str] | None = None) -> list[Example]:
    """Read demonstrations from a .jsonl file (one row per line) or a .json file (one list of rows).

    ValueError that names file, line and problem when a row is broken, lacks a key or has no response. With a list
    `skipped`, such problems are added to it instead and the other rows are read. ValueError when no row is left.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as problem:
        raise ValueError(f"{path}: not UTF-8 text (at byte {problem.start})") from problem

    examples = []
    lines = enumerate(text.split("\n"), start=1)  # subtle: splitlines would also cut at U+2028 inside a string
    rows = _json_rows(text, path) if path.suffix == ".json" else lines
    for line, row in rows:
        if not row.strip():
            continue
        source = f"{path}:{line}"
        try:
            messages = messages_of(_parse(row))
            _, dialogue = split_system(messages)
            if len(dialogue) < 2:
                raise ValueError("there is no response to learn")
            examples.append(Example(messages, source))
        except ValueError as problem:
            if skipped is None:
                raise ValueError(f"{source}: {problem}") from problem
            skipped.append(f"{source}: {problem}")

    if not examples:
        raise ValueError(f"{path}: holds no demonstration, at least one is needed")
    return examples


def messages_of(row: object) -> list[Message]:
    """The conversation in one row of any format. ValueError that names the key that is missing or wrong.

    >>> messages_of({"instruction": "Add.", "input": "1 + 1", "output": "2"})
    [Message(role='user', content='Add.\\n\\n1 + 1'), Message(role='assistant', content='2')]
    """
    if not isinstance(row, dict):
        raise ValueError(f"a row must be an object with keys, not {row!r:.60}")

    # a conversation with roles
    if "messages" in row:
        return [Message(_text(item, "role", ROLES), _text(item, "content")) for item in _list(row, "messages")]

    # self-instruct's seed tasks: an instruction with worked instances, of which we take the first
    if "instances" in row:
        first = _list(row, "instances")[0]
        row = {"instruction": row.get("instruction"), **(first if isinstance(first, dict) else {})}

    # one prompt and one response
    for prompt, context, response in PAIRS:
        if prompt in row:
            question = _text(row, prompt)
            if context and row.get(context):
                question += "\n\n" + _text(row, context)
            return [Message("user", question), Message("assistant", _text(row, response))]
    prompts = ", ".join(repr(prompt) for prompt, _, _ in PAIRS)
    raise ValueError(f"none of the keys 'messages', {prompts} is there, only {sorted(row)}")


@dataclass(frozen=True)
class Rows:
    """Encoded examples, cut to the context: `truncated` of them lost their end, `dropped` had no target left."""

    ids: list[list[int]]
    learn: list[list[bool]]
    truncated: int
    dropped: int


def encode_examples(tok: Tokenizer, examples: list[Example], context_length: int, loss_on: str = "response") -> Rows:
    """Encode examples for training. loss_on: "response", or "all" for every token, the lecture's plain form.

    ValueError when an example has no response, or when none fits in the context at all.
    """
    if loss_on not in ("response", "all"):
        raise ValueError(f"loss_on={loss_on!r}: must be 'response' or 'all'")
    longest = context_length + 1  # the last id is a target only
    kept, truncated, dropped = [], 0, 0
    for example in examples:
        # lay out
        try:
            ids, learn = encode_conversation(tok, example.messages)
            if not any(learn):
                raise ValueError("there is no response to learn")
        except ValueError as problem:
            raise ValueError(f"{example.source}: {problem}") from problem

        # cut to the context
        truncated += len(ids) > longest
        if any(learn[:longest]):
            kept.append((ids[:longest], learn[:longest]))
        else:
            dropped += 1

    if not kept:
        raise ValueError(f"no response begins within the context of {context_length} tokens: nothing would be learnt")
    kept_ids = [ids for ids, _ in kept]
    kept_learn = [learn if loss_on == "response" else [True] * len(learn) for _, learn in kept]
    return Rows(kept_ids, kept_learn, truncated, dropped)


def collate(rows: Rows, picks: list[int]) -> Batch:
    """Rows as a Batch: targets are the ids shifted by one, IGNORE where they are not learnt (S5)."""
    inputs = [rows.ids[i][:-1] for i in picks]
    shifted = [zip(rows.ids[i][1:], rows.learn[i][1:]) for i in picks]
    targets = [[id if learnt else IGNORE for id, learnt in row] for row in shifted]
    return Batch.from_rows(inputs, targets)


def example_batches(rows: Rows, batch_size: int, seed: int = 0) -> Batches:
    """Batches for `train`: every row once per epoch, each epoch in its own order; a pure function of the step.

    Rows of similar length share a batch. Where batch_size doesn't divide an epoch, some batches have one row less.
    """
    picks = lru_cache(maxsize=2)(partial(epoch_picks, rows, batch_size, seed))  # epoch -> its batches
    steps_per_epoch = len(picks(0))

    def batches(step: int) -> Batch:
        epoch, place = divmod(step, steps_per_epoch)
        return collate(rows, picks(epoch)[place])

    return batches


def epoch_picks(rows: Rows, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Which rows each batch of an epoch holds: sort by length with some noise, cut, and shuffle the batches."""
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: must be at least 1")
    rng = np.random.default_rng([seed, epoch])
    lengths = np.array([len(ids) for ids in rows.ids])
    order = np.argsort(lengths * rng.uniform(1, MIXING, len(lengths)))
    picks = np.array_split(order, -(-len(order) // batch_size))
    return [picks[i].tolist() for i in rng.permutation(len(picks))]


def padding(rows: Rows, picks: list[list[int]]) -> float:
    """The share of padding in batches of these rows.

    >>> padding(Rows([[1, 2, 3], [4, 5]], [], 0, 0), [[0, 1]])  # one of four inputs
    0.25
    """
    lengths = [[len(rows.ids[i]) - 1 for i in batch] for batch in picks]
    padded = sum(max(batch) * len(batch) for batch in lengths)
    return 1 - sum(map(sum, lengths)) / padded


def mix(*parts: Batches) -> Batches:
    """Batches that join the rows of several: demonstrations, and base documents against forgetting."""

    def batches(step: int) -> Batch:
        found = [part(step) for part in parts]
        inputs = [row for batch in found for row in batch.inputs.tolist()]
        targets = [row for batch in found for row in batch.targets.tolist()]
        return Batch.from_rows(inputs, targets)

    return batches


def _json_rows(text: str, path: Path) -> Iterator[tuple[int, str]]:
    """Each row of a JSON list and the line on which it begins."""
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as problem:
        raise ValueError(f"{path}:{problem.lineno}: not JSON ({problem.msg} at column {problem.colno})") from problem
    if not isinstance(rows, list):
        raise ValueError(f"{path}:1: must be a list of rows, or a .jsonl file with one row per line")

    # json doesn't say where a row stands, so go through the valid list once more
    decoder = json.JSONDecoder()
    between_rows = re.compile(r"[ \t\r\n,]*")
    line_ends = [match.start() for match in re.finditer("\n", text)]
    end = text.index("[") + 1
    for _ in rows:
        start = between_rows.match(text, end).end()
        _, end = decoder.raw_decode(text, start)
        yield bisect(line_ends, start) + 1, text[start:end]


def _parse(row: str) -> object:
    try:
        return json.loads(row)
    except json.JSONDecodeError as problem:
        raise ValueError(f"not JSON ({problem.msg} at column {problem.colno})") from problem


def _text(row: object, key: str, choices: tuple[str, ...] = ()) -> str:
    value = row.get(key) if isinstance(row, dict) else None
    if value is None:
        raise ValueError(f"the key {key!r} is missing")
    if not isinstance(value, str):
        raise ValueError(f"{key!r} must be text, not {value!r:.60}")
    if choices and value not in choices:
        raise ValueError(f"{key!r} is {value!r}: must be one of {', '.join(choices)}")
    return value


def _list(row: dict, key: str) -> list:
    if not isinstance(row[key], list) or not row[key]:
        raise ValueError(f"{key!r} must be a list of at least one, not {row[key]!r:.60}")
    return row[key]
