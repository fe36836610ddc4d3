"""Demonstrations on disk -> Examples -> Batches (S4).

The formats that people have are told apart by their keys; each row becomes a conversation.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from minigpt.data import IGNORE, Batch, Batches
from minigpt.tokenizer import Tokenizer

from .template import ROLES, Example, Message, encode_conversation, split_system

# The keys of a prompt, of what may follow it after an empty line, and of the response.
PAIRS = [
    ("prompt", None, "response"),
    ("instruction", "input", "output"),  # Alpaca; MathInstruct, without an input
    ("inputs", None, "targets"),  # FLAN
]
MIXING = 1.25  # a row shares batches with rows up to so many times as long; nearer 1: less padding, batches too alike


def read_examples(path: Path | str, skipped: list[str] | None = None) -> list[Example]:
    """Read demonstrations from a .jsonl file (a row a line) or a .json file (one list of rows).

    ValueError that names file, line and what is wrong when a row is broken, lacks a key or has no response; with a
    list for them, such problems are added to `skipped` instead, and the other rows are read. ValueError when no row is
    left.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as problem:
        raise ValueError(f"{path}: not UTF-8 text (at byte {problem.start})") from problem
    examples = []
    for line, row in (_json_rows if path.suffix == ".json" else _jsonl_rows)(text, path):
        source = f"{path}:{line}"
        try:
            messages = messages_of(_loads(row))
            if len(split_system(messages)[1]) < 2:
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
    """The conversation in one row, whichever format it has. ValueError that names the key that is missing or wrong.

    >>> messages_of({"instruction": "Add.", "input": "1 + 1", "output": "2"})
    [Message(role='user', content='Add.\\n\\n1 + 1'), Message(role='assistant', content='2')]
    """
    if not isinstance(row, dict):
        raise ValueError(f"a row must be an object with keys, not {row!r:.60}")
    if "messages" in row:
        return [Message(_text(turn, "role", ROLES), _text(turn, "content")) for turn in _list(row, "messages")]
    if "instances" in row:  # self-instruct's seed tasks: an instruction with worked instances; we take the first
        (first, *_) = _list(row, "instances")
        row = {"instruction": row.get("instruction"), **(first if isinstance(first, dict) else {})}
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
    """Examples as ids and masks, cut to the context; `truncated` of them lost their end, `dropped` every target."""

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
    kept_ids, kept_learn, truncated, dropped = [], [], 0, 0
    for example in examples:
        try:
            ids, learn = encode_conversation(tok, example.messages)
        except ValueError as problem:
            raise ValueError(f"{example.source}: {problem}") from problem
        if not any(learn):
            raise ValueError(f"{example.source}: there is no response to learn")
        truncated += len(ids) > context_length + 1
        ids, learn = ids[: context_length + 1], learn[: context_length + 1]
        if not any(learn):
            dropped += 1
            continue
        kept_ids.append(ids)
        kept_learn.append(learn if loss_on == "response" else [True] * len(ids))
    if not kept_ids:
        raise ValueError(f"no response begins within the context of {context_length} tokens: nothing would be learnt")
    return Rows(kept_ids, kept_learn, truncated, dropped)


def collate(rows: Rows, picks: list[int]) -> Batch:
    """Rows as a Batch: targets are the ids shifted by one, IGNORE where they are not learnt (S5)."""
    inputs = [rows.ids[i][:-1] for i in picks]
    targets = [[t if learnt else IGNORE for t, learnt in zip(rows.ids[i][1:], rows.learn[i][1:])] for i in picks]
    return Batch.from_rows(inputs, targets)


def example_batches(rows: Rows, batch_size: int, seed: int = 0) -> Batches:
    """Batches for `train`: every row once an epoch, each epoch in an order of its own; a pure function of the step.

    Rows of like length stand together. Where batch_size doesn't divide an epoch, batches are a little smaller.
    """
    picks = lru_cache(maxsize=2)(lambda epoch: epoch_picks(rows, batch_size, seed, epoch))
    steps = len(picks(0))
    return lambda step: collate(rows, picks(step // steps)[step % steps])


def epoch_picks(rows: Rows, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Which rows each batch of an epoch holds: sorted by length, with chance in it, cut, and the batches shuffled."""
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: must be at least 1")
    rng, lengths = np.random.default_rng([seed, epoch]), np.array([len(ids) for ids in rows.ids])
    order = np.argsort(lengths * rng.uniform(1, MIXING, len(lengths)))
    picks = np.array_split(order, -(-len(order) // batch_size))
    return [picks[i].tolist() for i in rng.permutation(len(picks))]


def padding(rows: Rows, picks: list[list[int]]) -> float:
    """The share of padding in batches of these rows.

    >>> padding(Rows([[1, 2, 3], [4, 5]], [], 0, 0), [[0, 1]])  # one of four inputs
    0.25
    """
    lengths = [[len(rows.ids[i]) - 1 for i in batch] for batch in picks]
    return 1 - sum(map(sum, lengths)) / sum(max(batch) * len(batch) for batch in lengths)


def mix(*parts: Batches) -> Batches:
    """Batches that hold the rows of several: demonstrations, and base documents against forgetting."""

    def batches(step: int) -> Batch:
        found = [part(step) for part in parts]
        inputs = [row for batch in found for row in batch.inputs.tolist()]
        return Batch.from_rows(inputs, [row for batch in found for row in batch.targets.tolist()])

    return batches


def _text(row: object, key: str, choices: tuple[str, ...] = ()) -> str:
    value = row.get(key) if isinstance(row, dict) else None
    if not isinstance(value, str):
        raise ValueError(f"the key {key!r} is missing" if value is None else f"{key!r} must be text, not {value!r:.60}")
    if choices and value not in choices:
        raise ValueError(f"{key!r} is {value!r}: must be one of {', '.join(choices)}")
    return value


def _list(row: dict, key: str) -> list:
    if not isinstance(row[key], list) or not row[key]:
        raise ValueError(f"{key!r} must be a list of at least one, not {row[key]!r:.60}")
    return row[key]


def _loads(row: str) -> object:
    try:
        return json.loads(row)
    except json.JSONDecodeError as problem:
        raise ValueError(f"not JSON ({problem.msg} at column {problem.colno})") from problem


def _jsonl_rows(text: str, path: Path) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.split("\n"), start=1):  # subtle: splitlines would also cut at U+2028 in a string
        if line.strip():
            yield number, line


def _json_rows(text: str, path: Path) -> Iterator[tuple[int, str]]:
    """The rows of one JSON list, each with the line on which it begins."""
    decoder, gap = json.JSONDecoder(), re.compile(r"[ \t\r\n,]*")
    counted, end, line = 0, text.find("[") + 1, 1
    try:
        if not isinstance(json.loads(text), list):
            raise ValueError(f"{path}:1: must be a list of rows, or one row a line in a .jsonl file")
    except json.JSONDecodeError as problem:
        raise ValueError(f"{path}:{problem.lineno}: not JSON ({problem.msg} at column {problem.colno})") from problem
    while True:
        at = gap.match(text, end).end()
        counted, line = at, line + text.count("\n", counted, at)
        if text[at] == "]":
            return
        _, end = decoder.raw_decode(text, at)
        yield line, text[at:end]
