"""Grade an exercise: its first cases, then the tests of the project; tell what is wrong in plain words."""

import hashlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from .guide import Exercise

SOLVED = ".solved"  # in the exercise's directory: the hash of the file that passed
POINTS = 10  # for an exercise: half for the first cases, half for the project's tests
PRINTED = 1_000_000  # bytes at most that are read of what a program prints
HERE = Path(__file__).parent


class Limits(NamedTuple):
    """What a program that grades may use."""

    seconds: float = 300  # for the cases, and for the tests: a loop may have no end
    megabytes: int = 0  # of memory; 0: as it likes
    environment: dict[str, str] | None = None  # None: ours


FREE = Limits()


class Grade(NamedTuple):
    """Whether all is right, how many points that is worth, and what to print."""

    solved: bool
    points: float
    lines: list[str]


class Done(NamedTuple):
    """How a program ended: its exit code, None if it was stopped, and what it printed."""

    code: int | None
    stdout: str
    stderr: str


def grade(topic: str, exercise: Exercise, directory: Path, limits: Limits = FREE) -> Grade:
    """Grade what was written in the directory; remember a solution. ValueError when the exercise isn't there."""
    file = directory / exercise.file
    if not file.is_file():
        raise ValueError(f"{directory}: not there yet; make exercise TOPIC={topic} first")
    (directory / SOLVED).unlink(missing_ok=True)
    lines, share = try_cases(exercise, directory, limits)
    points, solved = share * POINTS / 2, False
    if share == 1:
        tested, solved = try_tests(exercise, directory, limits)
        lines += tested
    if solved:
        points = POINTS
        (directory / SOLVED).write_text(fingerprint(file), encoding="utf-8")
    return Grade(solved, points, lines)


def try_cases(exercise: Exercise, directory: Path, limits: Limits = FREE) -> tuple[list[str], float]:
    """The share of the first cases that are right, and a line for each up to the first that is wrong."""
    tried = [case._asdict() for case in exercise.cases]
    asked = {"prelude": exercise.prelude, "file": exercise.file, "cases": tried}
    command = [sys.executable, str(HERE / "cases.py")]
    done = in_directory(command, directory, exercise.fast, limits, json.dumps(asked))
    if done.code is None:
        return [f"  ✗ stopped after {limits.seconds:g} seconds: does a loop never end?"], 0
    if "your turn" in done.stderr:
        return ["  nothing is written yet"], 0
    if done.code:
        return ["  ✗ the file can't be run: " + last_words(done)], 0
    try:
        answers = json.loads(done.stdout)
    except ValueError:
        return ["  ✗ the program ended before its cases were tried: is there an exit in it?"], 0

    lines = []
    for case, judged in zip(exercise.cases, answers, strict=True):
        lines.append(f"  {'✓' if judged['right'] else '✗'} {exercise.statement}  {case.says}")
        if not judged["right"]:
            if "your turn" in judged["got"]:
                return ["  nothing is written yet"], 0
            lines += [f"      {case.code}", f"      yours: {judged['got']}", f"      right: {judged['expected']}"]
            lines += [f"      → {judged['mistake']}"] if judged["mistake"] else []
            lines += [f"      where  {line}" for line in exercise.helpers(case.code)]
            break
    return lines, sum(judged["right"] for judged in answers) / len(answers)


def last_words(done: Done) -> str:
    """Why a program failed: the last line that it wrote, or the signal that ended it."""
    lines = done.stderr.strip().splitlines()
    killed = f"it was ended by signal {-done.code}" if done.code < 0 else "no message"
    return lines[-1][:300] if lines else killed


def try_tests(exercise: Exercise, directory: Path, limits: Limits = FREE) -> tuple[list[str], bool]:
    """The project's own tests of the piece: the first that fails by its name, with the heart of its message."""
    command = [sys.executable, "-m", "pytest", "-x", "-n", "0", "--tb=short", *shlex.split(exercise.tests)]
    done = in_directory(command, directory, exercise.fast, limits)
    if done.code is None:
        return [f"  ✗ the tests were stopped after {limits.seconds:g} seconds: does a loop never end?"], False
    if done.code == 0 and re.search(r"^\d+ passed", done.stdout, re.M):  # an exit in the piece has code 0 too
        return ["  ✓ the project's tests of it"], True
    failed = re.findall(r"^(?:FAILED|ERROR) \S*?(?:::test_|::)?(\w+?)(?:\[.*?\])?(?: - .*)?$", done.stdout, re.M)
    why = [line[4:].strip()[:160] for line in done.stdout.splitlines() if line.startswith("E  ")][:6]
    at = re.findall(rf"^{re.escape(exercise.file)}:(\d+): in .*\n +(.*)$", done.stdout, re.M)[-1:]  # in the piece
    why += [f"at line {number}: {line}" for number, line in at]
    name = failed[0].replace("_", " ") if failed else "a test"
    return [f"  ✗ the first cases are right, a rarer one isn't: {name}", *(f"      {line}" for line in why)], False


def in_directory(command: list[str], directory: Path, fast: bool, limits: Limits, text: str = "") -> Done:
    """Run a program on the student's copy, in the plain edition or with its twins, and end whatever it started."""
    environment = dict(os.environ if limits.environment is None else limits.environment)
    environment["MINIGPT_PLAIN"] = "0" if fast else "1"
    environment |= {"PYTHONPATH": str(directory.resolve()), "PYTHONDONTWRITEBYTECODE": "1"}
    if limits.megabytes and find_spec("resource"):  # Windows has no such limits
        command = [sys.executable, str(HERE / "limited.py"), str(limits.megabytes), *command]

    # what it prints goes to files, of which a part is read: a loop that prints would fill the memory
    with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        stdin.write(text.encode())
        stdin.seek(0)
        streams = {"stdin": stdin, "stdout": stdout, "stderr": stderr}
        program = subprocess.Popen(command, cwd=directory, env=environment, start_new_session=True, **streams)
        try:
            code = program.wait(limits.seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            end(program)
        return Done(code, read_end(stdout), read_end(stderr))


def end(program: subprocess.Popen) -> None:
    """End a program and what it has started."""
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError, PermissionError):  # nothing of it is left
            os.killpg(program.pid, signal.SIGKILL)
    else:
        program.kill()
    program.wait()


def read_end(stream) -> str:
    """The end of what a program has printed."""
    size = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, size - PRINTED))
    return stream.read().decode("utf-8", errors="replace").replace("\r\n", "\n")


def state(exercise: Exercise, directory: Path, gap: str) -> str:
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
