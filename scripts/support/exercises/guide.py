"""The exercises, one file each in topics/: the piece, its rules, hints, first cases and typical wrong answers."""

import ast
import re
import tomllib
from pathlib import Path
from typing import NamedTuple


class Case(NamedTuple):
    """A small case. Both sides are Python; `mistakes` names what a typical wrong result comes from."""

    says: str  # the rule, in the lecture's words
    code: str
    right: str
    mistakes: dict[str, str] = {}  # noqa: RUF012


class Wrong(NamedTuple):
    """A typical wrong answer: what stands in the gap, and a part of what is said of it. The tests plant it."""

    says: str
    answer: str


class Exercise(NamedTuple):
    """A piece of the source to write again, what helps with it, and the tests that fail without it."""

    statement: str  # of the lecture
    file: str
    name: str  # the function whose body is taken out, Class.function for a method
    task: str
    tests: str  # what pytest is called with
    rules: str  # for the edges: with the signature and the docstring, enough to write the piece
    hints: list[str]  # three, of rising strength
    prelude: str  # what the cases use
    cases: list[Case]
    wrong: list[Wrong]
    only: str = ""  # take out just the statement of the function that begins so
    place: int = 1  # among those of the same statement
    fast: bool = False  # a twin, "make it fast": it is graded with the twins switched on, and listed last

    def helpers(self, code: str) -> list[str]:
        """The lines of the prelude that a case needs, to be shown beside it; none if they are many."""
        lines, shown = self.prelude.splitlines(), []
        for node in reversed(ast.parse(self.prelude).body):
            targets = [x for target in getattr(node, "targets", ()) for x in ast.walk(target)]
            names = [x.id for x in targets if isinstance(x, ast.Name)] or [getattr(node, "name", "…")]
            if any(re.search(rf"\b{name}\b", "\n".join([code, *shown])) for name in names):
                shown = lines[node.lineno - 1 : node.end_lineno] + shown
        return shown if len(shown) <= 10 else []


def read_topic(file: Path) -> Exercise:
    """The exercise that a file describes. ValueError when it isn't TOML, or a key is unknown or missing."""
    try:
        read = tomllib.loads(file.read_text(encoding="utf-8"))
        for key in ("task", "rules"):
            read[key] = " ".join(read[key].split())  # a paragraph may be spread over lines
        read["hints"] = [" ".join(hint.split()) for hint in read["hints"]]
        read["cases"] = [Case(**case) for case in read["cases"]]
        read["wrong"] = [Wrong(**wrong) for wrong in read["wrong"]]
        return Exercise(**read)
    except KeyError as problem:
        raise ValueError(f"{file.name}: {problem} is missing") from problem
    except (TypeError, tomllib.TOMLDecodeError) as problem:
        raise ValueError(f"{file.name}: {problem}") from problem


def lecture_order(exercise: Exercise) -> tuple:
    """What sorts exercises: the plain pieces first, each kind in the lecture's order."""
    return exercise.fast, "PGS".index(exercise.statement[0]), int(exercise.statement[1:]), exercise.place


def read_topics(directory: Path) -> dict[str, Exercise]:
    """All exercises of a directory by their topics, the names of the files, in the lecture's order."""
    found = {file.stem: read_topic(file) for file in sorted(directory.glob("*.toml"))}
    return dict(sorted(found.items(), key=lambda item: lecture_order(item[1])))


TOPICS = read_topics(Path(__file__).parent / "topics")
