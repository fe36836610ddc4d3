"""Demonstrations on disk -> Examples (S4): a row's keys tell its format, and each row becomes a conversation."""

import json
import re
from bisect import bisect
from collections.abc import Iterator
from pathlib import Path

from ..data import Example
from ..template import ROLES, Message, split_system

# The keys of a prompt, of what may follow it after an empty line, and of the response.
PAIRS = [
    ("prompt", None, "response"),
    ("instruction", "input", "output"),  # Alpaca; MathInstruct, without an input
    ("inputs", None, "targets"),  # FLAN
]


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
