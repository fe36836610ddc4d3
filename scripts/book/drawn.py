"""What a chapter draws in by name: code, known bugs, exercises, statements. A name that is gone is a ValueError."""

import ast
import re
import textwrap
from functools import cache
from typing import NamedTuple

from scripts.exercise import ROOT, TOPICS, Exercise, find
from scripts.lab.claims import CLAIMS, figure


class Code(NamedTuple):
    """A function, a class or a value as it stands in a file."""

    file: str
    name: str
    first: int  # its lines in the file, from 1
    last: int
    text: str
    twin: str  # the file of its faster twin, "" if it has none


class Bug(NamedTuple):
    """A row of docs/known_bugs.md."""

    bug: str
    reports: str
    tests: tuple[str, ...]


class Statement(NamedTuple):
    """A statement of the lecture, and the figure that a demo measured for it."""

    number: str
    statement: str
    figure: str
    which: str


@cache
def source(file: str) -> str:
    """The text of a file of the project. ValueError when there is none."""
    try:
        return (ROOT / file).read_text(encoding="utf-8")
    except OSError:
        raise ValueError(f"{file} is not there") from None


def codes(reference: str) -> list[Code]:
    """The pieces that "file: name, name; file: name" names.

    >>> [(piece.name, piece.twin) for piece in codes("minigpt/formulas.py: silu, dropout")]
    [('silu', 'minigpt/fast/kernels.py'), ('dropout', '')]
    """
    found = []
    for part in reference.split(";"):
        file, _, names = part.strip().partition(": ")
        found += [code(file, name.strip()) for name in names.split(",")]
    return found


def code(file: str, name: str) -> Code:
    """One piece: from its decorators, the mark of a twin left out, to its end."""
    try:
        node = find(source(file), name)
    except ValueError as problem:
        raise ValueError(f"{file}: {problem}") from None
    marks = getattr(node, "decorator_list", [])
    twins = [mark for mark in marks if ast.unparse(mark).startswith("has_twin(")]
    first = min([node.lineno, *(mark.lineno for mark in marks if mark not in twins)])
    text = textwrap.dedent("\n".join(source(file).split("\n")[first - 1 : node.end_lineno]))
    return Code(file, name, first, node.end_lineno, text, twin_of(file, twins[0]) if twins else "")


def twin_of(file: str, mark: ast.Call) -> str:
    """The file that a mark @has_twin(…) names, with the module as text or as a constant of the marked file."""
    module = mark.args[0]
    if isinstance(module, ast.Name):
        module = find(source(file), module.id).value
    return module.value.replace(".", "/") + ".py"


def bugs() -> list[Bug]:
    """All rows of the catalogue of known bugs."""
    rows = re.findall(r"^\| (?!bug \|)([^|]+) \| ([^|]+) \| (`[^|]+) \|$", source("docs/known_bugs.md"), re.M)
    return [Bug(bug, reports, tuple(re.findall(r"`([^`]+)`", tests))) for bug, reports, tests in rows]


def bug(words: str) -> Bug:
    """The known bug that begins with these words.

    >>> bug("Temperature 0").bug
    'Temperature 0 divides by zero'
    """
    found = [row for row in bugs() if row.bug.startswith(words)]
    if len(found) != 1:
        raise ValueError(f"docs/known_bugs.md has {len(found)} rows that begin {words!r}: must be one")
    return found[0]


def exercise(topic: str) -> Exercise:
    """The exercise of this name.

    >>> exercise("top_p").file
    'decoding/filters.py'
    """
    if topic not in TOPICS:
        raise ValueError(f"{topic!r} is not an exercise: must be one of {', '.join(TOPICS)}")
    return TOPICS[topic]


def statements(numbers: list[str], results: dict | None) -> list[Statement]:
    """Statements by number, with the figures of a demo's results; without results, those in docs/lecture.md.

    >>> statements(["P1"], None)[0].statement
    'Text becomes a sequence of token ids'
    """
    found = []
    for number in numbers:
        if number not in CLAIMS:
            raise ValueError(f"{number!r} is not a statement: must be one of {', '.join(CLAIMS)}")
        claim = CLAIMS[number]
        measured = kept_figure(number) if results is None else figure(claim, results) or ""
        found.append(Statement(number, claim.statement, measured, claim.measured))
    return found


def kept_figure(number: str) -> str:
    """A statement's figure in the table of docs/lecture.md."""
    rows = re.findall(rf"^\| {number} \|[^|]*\|[^|]*\|([^|]*)\|", source("docs/lecture.md"), re.M)
    if len(rows) != 1:
        raise ValueError(f"docs/lecture.md has {len(rows)} rows for {number} in its table: must be one")
    return rows[0].strip()
