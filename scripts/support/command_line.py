"""How every command runs: its flags are checked first, and a user's mistake is one line and exit status 2. No torch."""

import argparse
import math
import os
import shlex
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from scripts.support.terminal import visible

LONGEST = 400  # characters of an error line
READER_LEFT = 141  # the exit status that a shell reports for a program whose reader has left


class Parser(argparse.ArgumentParser):
    """A command's flags. A mistake in them is a ValueError, so that it is reported like every other one."""

    def __init__(self, description: str, **options):
        super().__init__(description=description.split("\n")[0], **options)

    def error(self, message: str) -> None:
        raise ValueError(message)


def whole(least: int = 1, most: float = math.inf) -> Callable[[str], int]:
    """What reads a flag's whole number: `parser.add_argument("--steps", type=whole(1))`.

    >>> whole(0)("12")
    12
    """

    def read(text: str) -> int:
        digits = text.strip().removeprefix("+")
        if not (digits.isdecimal() and len(digits) < 1000 and least <= int(digits) <= most):
            limit = "" if most == math.inf else f" and at most {most}"
            raise argparse.ArgumentTypeError(f"{text[:40]!r}: must be a whole number, at least {least}{limit}")
        return int(digits)

    return read


def file_name(text: str) -> Path:
    """What reads a flag's file or directory: an empty name would be the working directory."""
    if not text.strip() or "\0" in text:
        raise argparse.ArgumentTypeError(f"{text!r}: must name a file or a directory")
    return Path(text)


def run(main: Callable[[], object]) -> None:
    """Run a command line; a user's mistake is one line on standard error and exit status 2.

    Output that the terminal's encoding lacks is replaced; a reader who leaves (`… | head`) ends the command quietly.
    """
    prepare_streams()
    sys.argv[1:] = split_arguments(sys.argv[1:])
    try:
        status = finish(main)
    except BrokenPipeError:
        status = READER_LEFT
    except (ValueError, OSError, FloatingPointError) as problem:
        status = 2
        complain(f"error: {one_line(problem)}")
    except KeyboardInterrupt:
        status = 130
        complain("\ninterrupted")
    if status:
        let_go_of_output()
        sys.exit(status)


def finish(main: Callable[[], object]) -> object:
    """Run a command to its end, until its last line is out; gives its exit status, if it has one."""
    try:
        status = main()
    except SystemExit as end:
        status = end.code
    sys.stdout.flush()
    return status


def prepare_streams() -> None:
    """Put something in the place of streams that are closed, and let them replace what they can't show."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:  # closed: the next file that is opened would get its number
            nothing = os.open(os.devnull, os.O_RDWR)
            if nothing != number:
                os.dup2(nothing, number)
                os.close(nothing)
            setattr(sys, name, open(number, "r" if name == "stdin" else "w", encoding="utf-8", closefd=False))  # noqa: SIM115
        if hasattr(getattr(sys, name), "reconfigure"):
            with suppress(OSError):  # a stream that has been read from stays as it is
                getattr(sys, name).reconfigure(errors="replace")


def split_arguments(arguments: list[str]) -> list[str]:
    """Replace --args=TEXT, which is how make passes ARGS on, by the words in the text.

    >>> split_arguments(["--n=3", "--args=--system 'be brief' --seed 1"])
    ['--n=3', '--system', 'be brief', '--seed', '1']
    """
    split = []
    for argument in arguments:
        split += shlex.split(argument[7:]) if argument.startswith("--args=") else [argument]
    return split


def complain(text: str) -> None:
    """Print a line to standard error, or nothing when nobody reads it."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        let_go_of_output()


def let_go_of_output() -> None:
    """What is still to be written, nobody can read: the interpreter would try again at its end, and complain."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def one_line(problem: Exception) -> str:
    """The message of a problem on one line that is not too long; for a file, its name and what is wrong."""
    text = str(problem)
    if isinstance(problem, OSError) and problem.strerror and problem.filename:
        text = f"{problem.filename}: {problem.strerror}"
    text = visible(" ".join(text.split()))
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} … {text[-LONGEST // 2 :]}"
