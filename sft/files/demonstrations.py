"""Demonstrations on disk -> Examples (S4): a row's keys tell its format, and each row becomes a conversation."""

import json
import re
from bisect import bisect
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from minigpt.files.reading import without_doubles

from ..data import Example
from ..template import ROLES, Message, split_system

# The keys of a prompt, of what may follow it after an empty line, and of the response.
PAIRS = [
    ("prompt", None, "response"), ("prompt", None, "completion"),  # ours; TRL's
    ("instruction", "input", "output"), ("inputs", None, "targets"),  # Alpaca's and MathInstruct's; FLAN's
]  # fmt: skip


def read_examples(path: Path | str, skipped: list[str] | None = None) -> list[Example]:
    """Read demonstrations from a .jsonl file (one row per line) or a .json file (one list of rows).

    ValueError that names file, line and problem when a row is broken, lacks a key or has no response. With a list
    `skipped`, such problems are added to it instead and the other rows are read. ValueError when no row is left.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise ValueError(f"{path}: not a file")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as problem:
        raise ValueError(f"{path}: not UTF-8 text (at byte {problem.start})") from problem

    examples = []
    lines = enumerate(text.split("\n"), start=1)  # subtle: splitlines would also cut at U+2028 inside a string
    rows = _json_rows(text, path) if path.suffix.lower() == ".json" else lines
    for line, row in rows:
        if not row.strip():
            continue
        source = f"{path}:{line}"
        try:
            parsed = _parse(row)
            messages = messages_of(parsed)
            _, dialogue = split_system(messages)
            if len(dialogue) < 2:
                raise ValueError("there is no response to learn")
            examples.append(Example(messages, source, unused_columns(parsed)))
        except ValueError as problem:
            if skipped is None:
                raise ValueError(f"{source}: {problem}") from problem
            skipped.append(f"{source}: {problem}")

    if not examples:
        raise ValueError("; ".join([f"{path}: holds no demonstration, at least one is needed", *(skipped or [])[:1]]))
    return examples


def messages_of(row: object) -> list[Message]:
    """The conversation in one row of any format. ValueError that names the key that is missing or wrong.

    >>> messages_of({"instruction": "Add.", "input": "1 + 1", "output": "2"})
    [Message(role='user', content='Add.\\n\\n1 + 1'), Message(role='assistant', content='2')]
    """
    if not isinstance(row, dict):
        raise ValueError(f"a row must be an object with keys, not {row!r:.60}")

    # a conversation with roles; TRL has it in two parts
    match row:
        case {"messages": messages} if messages is not None or not any(_complete(row, pair) for pair in PAIRS):
            return [_message(item) for item in _list(row, "messages")]
        case {"prompt": list(), "completion": list()}:
            return [_message(item) for key in ("prompt", "completion") for item in _list(row, key)]

    # self-instruct's seed tasks: an instruction with worked instances, of which we take the first
    if row.get("instances") is not None:
        first = _list(row, "instances")[0]
        row = {"instruction": row.get("instruction"), **(first if isinstance(first, dict) else {})}

    # one prompt and one response; if there are several such pairs, the first whose texts are all there
    pairs = [pair for pair in PAIRS if pair[0] in row]
    for prompt, context, response in sorted(pairs, key=lambda pair: not _complete(row, pair)):
        question = _text(row, prompt)
        if context and row.get(context) not in (None, ""):
            question += "\n\n" + _text(row, context)
        return [Message("user", question), Message("assistant", _text(row, response))]
    prompts = ", ".join(dict.fromkeys(repr(prompt) for prompt, _, _ in PAIRS))
    raise ValueError(f"none of the keys 'messages', {prompts} is there, only {sorted(row)!s:.200}")


def unused_columns(row: dict) -> tuple[str, ...]:
    """The keys of a row, and of its messages, that hold something and are not read."""
    read = {"messages", "instances", *(key for pair in PAIRS for key in pair)}
    items = [item for key in ("messages", "prompt", "completion") for item in row.get(key) or [] if type(item) is dict]
    inner = {f"messages.{key}" for item in items for key, value in item.items() if value}
    outer = {key for key, value in row.items() if value and key not in read}
    for key in [key for key in read & row.keys() if row[key]]:  # another pair, beside the one that is read
        with suppress(ValueError):
            if messages_of(row | {key: None}) == messages_of(row):
                outer.add(key)
    return tuple(sorted((inner - {"messages.role", "messages.content"}) | outer))


def _complete(row: dict, pair: tuple) -> bool:
    prompt, _, response = pair
    return row.get(prompt) is not None and row.get(response) is not None


def _message(item: object) -> Message:
    return Message(_text(item, "role", ROLES), _text(item, "content"))


def _json_rows(text: str, path: Path) -> Iterator[tuple[int, str]]:
    """Each row of a JSON list and the line on which it begins."""
    try:
        rows = _parse(text, dict)
    except ValueError as problem:
        raise ValueError(f"{path}:{getattr(problem.__cause__, 'lineno', 1)}: {problem}") from problem
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


def _parse(text: str, make: Callable = without_doubles) -> object:
    """A value of JSON; make: what makes an object of its keys and values."""
    try:
        return json.loads(text, object_pairs_hook=make)
    except (RecursionError, ValueError) as problem:
        said = "nested too deeply" if isinstance(problem, RecursionError) else getattr(problem, "msg", problem)
        where = f" at column {problem.colno}" if isinstance(problem, json.JSONDecodeError) else ""
        raise ValueError(f"not JSON ({said}{where}); .jsonl has one row per line, .json one list of rows") from problem


def _text(row: object, key: str, choices: tuple[str, ...] = ()) -> str:
    value = row.get(key) if isinstance(row, dict) else None
    if value is None:
        raise ValueError(f"the key {key!r} is missing in {row!r:.60}")
    if not isinstance(value, str):
        raise ValueError(f"{key!r} must be text, not {value!r:.60}")
    if choices and value not in choices:
        raise ValueError(f"{key!r} is {value!r}: must be one of {', '.join(choices)}")
    return value


def _list(row: dict, key: str) -> list:
    if not isinstance(row[key], list) or not row[key]:
        raise ValueError(f"{key!r} must be a list of at least one, not {row[key]!r:.60}")
    return row[key]
