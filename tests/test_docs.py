"""README and docs/ name files, targets and tests that exist."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    *(path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs").rglob("*.md"))),
]
KNOWN_BUGS = "docs/known_bugs.md"


def read(file: str) -> str:
    return (ROOT / file).read_text(encoding="utf-8")


def functions(file: str) -> set[str]:
    return {node.name for node in ast.parse(read(file)).body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_and_every_file_that_a_page_names_exists(page):
    links = [(ROOT / page).parent / link for link in re.findall(r"\]\((?!http)([^)#]+)\)", read(page))]
    files = [ROOT / file for file in re.findall(r"`((?:minigpt|decoding|sft|scripts|tests)/[\w/]+\.py)", read(page))]
    assert [path for path in links + files if not path.exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_target_that_a_page_names_is_in_the_makefile(page):
    named = set(re.findall(r"(?:^|`|=1 )make ([a-z-]+)", read(page), re.M))
    targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.M))
    assert named - targets == set()


def test_the_catalogue_of_known_bugs_names_references_and_tests_that_exist():
    rows = [line for line in read(KNOWN_BUGS).splitlines() if line.startswith("| ") and not line.startswith("| bug ")]
    assert len(rows) > 30
    for row in rows:
        _, reports, tests = row.strip("| ").split(" | ")
        assert re.fullmatch(r"–|[\w.-]+/[\w.-]+#\d+(, [\w.-]+/[\w.-]+#\d+)*", reports), row
        for test in tests.split(", "):
            file, name = test.strip("`").split("::")
            assert name in functions(file), row


def test_every_test_that_points_to_the_catalogue_is_in_it():
    pointing = []
    for path in sorted((ROOT / "tests").glob("test_*.py")):
        if path.name == Path(__file__).name:
            continue
        source = path.read_text(encoding="utf-8")
        for node in ast.parse(source).body:
            lines = source.splitlines()[node.lineno - 1 : node.end_lineno]
            if isinstance(node, ast.FunctionDef) and any(KNOWN_BUGS in line for line in lines):
                pointing.append(f"tests/{path.name}::{node.name}")
    assert [test for test in pointing if f"`{test}`" not in read(KNOWN_BUGS)] == []
