"""The exercises: each one's gap fails its tests, the shipped source passes them, and nobody's work is written over."""

import ast
import os
import re
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from helpers import call, refuses

from scripts import exercise
from scripts.exercise import ROOT, TOPICS, make, without


def graded(directory, tests: list[str]) -> str:
    """What pytest prints in a directory, as a student has it."""
    command = [sys.executable, "-m", "pytest", "-x", "--tb=line", *tests]
    plain = os.environ | {"MINIGPT_PLAIN": "1"}  # else a faster twin would run in place of the gap
    return subprocess.run(command, cwd=directory, env=plain, capture_output=True, text=True).stdout


def all_tests() -> list[str]:
    """The tests of all exercises as one call: every file, and every name that one of them chooses."""
    calls = [shlex.split(piece.tests) for piece in TOPICS.values()]  # files, "-k", names
    files = sorted({file for *files, _, _ in calls for file in files})
    return [*files, "-k", " or ".join(f"({names})" for *_, names in calls)]


def cut(source: str, name: str) -> list[str]:
    """The source without this function."""
    function, lines = exercise.find(source, name), source.splitlines()
    del lines[function.lineno - 1 : function.end_lineno]
    return lines


@pytest.mark.parametrize("topic", TOPICS)
def test_only_the_piece_is_taken_out(topic):
    piece = TOPICS[topic]
    source = (ROOT / piece.file).read_text(encoding="utf-8")
    gap = without(source, piece)
    assert cut(gap, piece.name) == cut(source, piece.name)
    before, after = exercise.find(source, piece.name), exercise.find(gap, piece.name)
    assert ast.unparse(before.args) == ast.unparse(after.args)
    assert ast.get_docstring(before) == ast.get_docstring(after)
    assert [ast.unparse(node) for node in ast.walk(after) if isinstance(node, ast.Raise)].count(
        f"raise NotImplementedError({'your turn: ' + piece.task!r})"
    ) == 1
    if not piece.only:
        assert len([node for node in after.body if not isinstance(node, ast.Expr)]) == 1


def test_a_topic_points_at_what_is_there():
    piece = TOPICS["beam"]
    source = (ROOT / piece.file).read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="beam_search_steps is not defined"):
        without(source, piece._replace(name="beam_search_steps"))
    with pytest.raises(ValueError, match="0 statements that begin 'for runk, '"):
        without(source, piece._replace(only="for runk, "))


def test_topics_come_in_the_lecture_s_order_and_there_are_ten_or_more():
    numbers = [(("P", "G", "S").index(piece.statement[0]), int(piece.statement[1:])) for piece in TOPICS.values()]
    assert numbers == sorted(numbers) and len(numbers) >= 10


def test_an_exercise_says_where_to_write_and_how_to_grade_and_is_not_written_over(monkeypatch, capsys, tmp_path):
    (tmp_path / "minigpt").mkdir()
    for name in exercise.COPIED:
        if not (tmp_path / name).exists():
            (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "minigpt" / "tokenizer.py").write_text((ROOT / "minigpt" / "tokenizer.py").read_text())
    monkeypatch.setattr(exercise, "ROOT", tmp_path)
    assert call(monkeypatch, exercise, "--topic", "bpe_merge") == 0
    printed = capsys.readouterr().out
    assert "write it in  exercises/bpe_merge/minigpt/tokenizer.py" in printed and "-m pytest -x minigpt/" in printed
    file = tmp_path / "exercises" / "bpe_merge" / "minigpt" / "tokenizer.py"
    assert "your turn" in file.read_text()
    file.write_text("my work")
    refuses(monkeypatch, capsys, "OVERWRITE=1", exercise, "--topic", "bpe_merge")
    assert file.read_text() == "my work"
    assert call(monkeypatch, exercise, "--topic", "bpe_merge", "--overwrite") == 0
    assert "your turn" in file.read_text()


def test_an_unknown_topic_lists_the_topics(monkeypatch, capsys):
    refuses(monkeypatch, capsys, "'wisdom' is not a topic; there are bpe_merge, ", exercise, "--topic", "wisdom")


def test_the_list_tells_statement_file_and_command_of_each(monkeypatch, capsys):
    assert call(monkeypatch, exercise) == 0
    printed = capsys.readouterr().out
    for topic, piece in TOPICS.items():
        assert f"{piece.statement}  {topic}" in printed and f"{piece.file}: {piece.name}" in printed
        assert f"(cd exercises/{topic} && MINIGPT_PLAIN=1 ../../.venv/bin/python -m pytest -x {piece.tests})" in printed


@pytest.mark.slow
def test_each_gap_fails_its_tests_and_the_shipped_source_passes_them_all(tmp_path):
    def gap(topic: str) -> str:
        make(topic, tmp_path / topic)
        return graded(tmp_path / topic, shlex.split(TOPICS[topic].tests))

    with ThreadPoolExecutor(2) as pool:
        shipped = pool.submit(graded, ROOT, all_tests())
        for topic, printed in zip(TOPICS, pool.map(gap, TOPICS)):
            assert f"NotImplementedError: your turn: {TOPICS[topic].task}" in printed, (topic, printed)
            assert re.search(r"\n1 failed, (\d+ deselected )?", printed) and "passed" not in printed, (topic, printed)
        assert re.search(r"\n\d+ passed, (\d+ skipped, )?\d+ deselected in", shipped.result()), shipped.result()
