"""Grade an exercise: its first cases, then the tests of the project; tell what is wrong in plain words."""

import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from .guide import GUIDES

LIMIT = 300  # seconds for the cases, and for the tests: a loop may have no end
SOLVED = ".solved"  # in the exercise's directory: the hash of the file that passed


class Grade(NamedTuple):
    """Whether all is right, and what to print."""

    solved: bool
    lines: list[str]


def grade(topic: str, exercise, directory: Path) -> Grade:
    """Grade what was written in the directory; remember a solution. ValueError when the exercise isn't there."""
    file = directory / exercise.file
    if not file.is_file():
        raise ValueError(f"{directory}: not there yet; make exercise TOPIC={topic} first")
    (directory / SOLVED).unlink(missing_ok=True)
    lines, right = try_cases(topic, exercise, directory)
    if right:
        tested, right = try_tests(exercise, directory)
        lines += tested
    if right:
        (directory / SOLVED).write_text(fingerprint(file), encoding="utf-8")
    return Grade(right, lines)


def try_cases(topic: str, exercise, directory: Path) -> tuple[list[str], bool]:
    """A line for each first case, up to the first that is wrong: that one with what came and what is right."""
    guide = GUIDES[topic]
    asked = {"prelude": guide.prelude, "cases": [case._asdict() for case in guide.cases]}
    command = [sys.executable, str(Path(__file__).parent / "cases.py")]
    done = in_directory(command, directory, json.dumps(asked))
    if done is None:
        return [f"  ✗ stopped after {LIMIT} seconds: does a loop never end?"], False
    if done.returncode:
        if "your turn" in done.stderr:
            return ["  nothing is written yet"], False
        return ["  ✗ the file can't be run: " + (done.stderr.strip().splitlines() or ["no message"])[-1]], False

    lines = []
    for case, judged in zip(guide.cases, json.loads(done.stdout.splitlines()[-1])):
        lines.append(f"  {'✓' if judged['right'] else '✗'} {exercise.statement}  {case.says}")
        if not judged["right"]:
            if "your turn" in judged["got"]:
                return ["  nothing is written yet"], False
            lines += [f"      {case.code}", f"      yours: {judged['got']}", f"      right: {judged['expected']}"]
            lines += [f"      → {judged['mistake']}"] if judged["mistake"] else []
            lines += [f"      where  {line}" for line in guide.helpers(case.code)]
            return lines, False
    return lines, True


def try_tests(exercise, directory: Path) -> tuple[list[str], bool]:
    """The project's own tests of the piece: the first that fails by its name, with the heart of its message."""
    command = [sys.executable, "-m", "pytest", "-x", "-n", "0", "--tb=short", *shlex.split(exercise.tests)]
    done = in_directory(command, directory)
    if done is None:
        return [f"  ✗ the tests were stopped after {LIMIT} seconds: does a loop never end?"], False
    if done.returncode == 0:
        return ["  ✓ the project's tests of it"], True
    failed = re.findall(r"^(?:FAILED|ERROR) \S*?(?:::test_|::)?(\w+?)(?:\[.*?\])?(?: - .*)?$", done.stdout, re.M)
    why = [line[4:].strip()[:160] for line in done.stdout.splitlines() if line.startswith("E  ")][:6]
    name = failed[0].replace("_", " ") if failed else "a test"
    return [f"  ✗ the first cases are right, a rarer one isn't: {name}", *(f"      {line}" for line in why)], False


def in_directory(command: list[str], directory: Path, text: str = "") -> subprocess.CompletedProcess | None:
    """Run a program on the student's copy, in the plain edition; None if it takes too long."""
    plain = os.environ | {"MINIGPT_PLAIN": "1", "PYTHONPATH": str(directory.resolve()), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        return subprocess.run(
            command, cwd=directory, env=plain, input=text, capture_output=True, text=True, timeout=LIMIT
        )
    except subprocess.TimeoutExpired:
        return None


def state(exercise, directory: Path, gap: str) -> str:
    """open: nothing written; tried: something; solved: graded right, and unchanged since."""
    file = directory / exercise.file
    if not file.is_file():
        return "open"
    solved = directory / SOLVED
    if solved.is_file() and solved.read_text(encoding="utf-8") == fingerprint(file):
        return "solved"
    return "open" if gap in file.read_text(encoding="utf-8") else "tried"


def fingerprint(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
