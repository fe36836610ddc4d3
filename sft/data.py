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

from .template import ROLES, Example, Message, encode_conversation

# The keys of a prompt, of what may follow it after an empty line, and of the response.
PAIRS = [
    ("prompt", None, "response"),
    ("instruction", "input", "output"),  # Alpaca; MathInstruct, without an input
    ("inputs", None, "targets"),  # FLAN
]


def read_examples(path: Path | str) -> list[Example]:
    """Read demonstrations from a .jsonl file (a row a line) or a .json file (one list of rows).

    ValueError that names file, line and what is wrong when a row is broken or lacks a key; when there is no row.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as problem:
        raise ValueError(f"{path}: not UTF-8 text (at byte {problem.start})") from problem
    rows = _json_rows(text, path) if path.suffix == ".json" else _jsonl_rows(text, path)
    examples = []
    for line, row in rows:
        source = f"{path}:{line}"
        try:
            examples.append(Example(messages_of(row), source))
        except ValueError as problem:
            raise ValueError(f"{source}: {problem}") from problem
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
    """Batches for `train`: every row once an epoch, each epoch in an order of its own; a pure function of the step."""
    count = len(rows.ids)

    @lru_cache(maxsize=2)
    def order(epoch: int) -> list[int]:
        return np.random.default_rng([seed, epoch]).permutation(count).tolist()

    def batches(step: int) -> Batch:
        return collate(rows, [order(i // count)[i % count] for i in range(step * batch_size, (step + 1) * batch_size)])

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


def _jsonl_rows(text: str, path: Path) -> Iterator[tuple[int, object]]:
    for number, line in enumerate(text.split("\n"), start=1):  # subtle: splitlines would also cut at U+2028 in a string
        if line.strip():
            try:
                yield number, json.loads(line)
            except json.JSONDecodeError as problem:
                raise ValueError(f"{path}:{number}: not JSON ({problem.msg} at column {problem.colno})") from problem


def _json_rows(text: str, path: Path) -> Iterator[tuple[int, object]]:
    """The rows of one JSON list, each with the line on which it begins."""
    decoder, gap = json.JSONDecoder(), re.compile(r"[ \t\r\n,]*")
    counted, at, line = 0, text.find("[") + 1, 1
    try:
        if not isinstance(json.loads(text), list):
            raise ValueError(f"{path}:1: must be a list of rows, or one row a line in a .jsonl file")
        while True:
            at = gap.match(text, at).end()
            counted, line = at, line + text.count("\n", counted, at)
            if text[at] == "]":
                return
            row, at = decoder.raw_decode(text, at)
            yield line, row
    except json.JSONDecodeError as problem:
        raise ValueError(f"{path}:{problem.lineno}: not JSON ({problem.msg} at column {problem.colno})") from problem
