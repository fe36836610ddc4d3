"""Command lines in tests: call one in this process, or expect it to refuse."""

import io
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from scripts.support.command_line import run


def call(monkeypatch, module, *arguments) -> int:
    """The exit status of a command line."""
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
    try:
        run(module.main)
    except SystemExit as end:
        return end.code
    return 0


def need(module: ModuleType, name: str) -> Any:
    """What a module has on some platforms only: where it lacks it, the rest of the test is skipped, with a word."""
    if not hasattr(module, name):
        pytest.skip(f"this platform has no {module.__name__}.{name}")
    return getattr(module, name)


def refuses(monkeypatch, capsys, message: str, module, *arguments) -> None:
    """Exit status 2, and one line on standard error that holds the message."""
    assert call(monkeypatch, module, *arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and message in lines[0], lines


class LeavesAt(io.StringIO):
    """A reader of standard output that leaves as soon as this file is there."""

    def __init__(self, path: Path):
        super().__init__()
        self.path = path

    def write(self, text: str) -> int:
        if self.path.exists():
            raise BrokenPipeError
        return super().write(text)


def keeps_before_it_shows(monkeypatch, module, path: Path) -> None:
    """Expect of a command that its results are in the file before it prints its table."""
    table = module.table

    def watched(*arguments) -> None:
        assert path.exists(), "shown before it was kept"
        table(*arguments)

    monkeypatch.setattr(module, "table", watched)
