"""Marking a class: whatever a submission does costs its own row only, and the checkout stays as it is."""

import csv
import re
from unittest import mock

import pytest
from helpers import call, refuses

from scripts import marks
from scripts.exercise import ROOT, TOPICS, without
from scripts.support.exercises import grading

SHIPPED = (ROOT / TOPICS["stop"].file).read_text(encoding="utf-8")
GAP = "    raise NotImplementedError('your turn: "


def answer(lines: str) -> str:
    """A submission for `stop` with these lines in the gap."""
    return "\n".join(
        f"    {lines}" if line.startswith(GAP) or line.startswith(GAP.replace("'", '"')) else line
        for line in without(SHIPPED, TOPICS["stop"]).split("\n")
    )


def hand_in(directory, **files: str) -> None:
    for name, text in files.items():
        (directory / name).mkdir()
        if text:
            (directory / name / "stop.py").write_text(text, encoding="utf-8")


def read(directory) -> dict[str, dict]:
    with (directory / "marks.csv").open(encoding="utf-8", newline="") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


@pytest.mark.slow
def test_each_submission_costs_its_own_row_only(monkeypatch, capsys, tmp_path):
    hand_in(
        tmp_path,
        eats=answer("return [bytes(10**9) for _ in range(99)]"),
        exits=answer("import os; os._exit(0)"),
        good=SHIPPED,
        gap=without(SHIPPED, TOPICS["stop"]),
        hangs=answer("while True: pass"),
        nothing="",
        prints=answer("while True: print('x' * 9999)"),
        raises=answer("return 1 / 0"),
        unreadable="def (:",
        wrong=answer("return 'length'"),
    )
    before = marks.fingerprint(ROOT)
    arguments = [str(tmp_path), "--topic", "stop", "--seconds", "60", "--megabytes", "2000"]
    assert call(monkeypatch, marks, *arguments) == 0
    found, printed = read(tmp_path), capsys.readouterr().out
    assert marks.fingerprint(ROOT) == before

    says = {
        "eats": "MemoryError",
        "exits": "is there an exit in it?",
        "gap": "nothing is written yet",
        "hangs": "stopped after 60 seconds",
        "nothing": "missing",
        "prints": "stopped after 60 seconds",
        "raises": "ZeroDivisionError",
        "unreadable": "can't be run",
        "wrong": "It goes on until something ends it",
    }
    assert found["good"] == {"name": "good", "stop": "10", "sum": "10", "remarks": ""}
    assert list(found) == sorted([*says, "good"])
    for name, words in says.items():
        assert words in found[name]["remarks"] and float(found[name]["sum"]) < 2, found[name]
        assert name in printed


def test_points_are_half_for_the_cases_and_half_for_the_tests(monkeypatch, tmp_path):
    for share, passed, points in [(0.5, True, 2.5), (1, False, 5), (1, True, 10)]:
        monkeypatch.setattr(grading, "try_cases", lambda *a, share=share: (["  ✗ a case"], share))
        monkeypatch.setattr(grading, "try_tests", lambda *a, passed=passed: (["  ✗ a test"], passed))
        (tmp_path / "stop.py").write_text(SHIPPED, encoding="utf-8")
        assert marks.mark("stop", tmp_path / "stop.py", grading.FREE).points == points


def test_a_grading_that_fails_itself_is_a_remark(monkeypatch, tmp_path):
    def broken(*arguments):
        raise OSError("no room on the disk")

    monkeypatch.setattr(marks, "grade", broken)
    (tmp_path / "stop.py").write_text(SHIPPED, encoding="utf-8")
    assert marks.mark("stop", tmp_path / "stop.py", grading.FREE) == (0, "OSError: no room on the disk")


def test_what_is_handed_in_is_found_in_each_of_its_forms(tmp_path):
    hand_in(tmp_path, ann=SHIPPED, bob="")
    whole = tmp_path / "cleo" / "stop" / TOPICS["stop"].file
    whole.parent.mkdir(parents=True)
    whole.write_text(SHIPPED)
    (tmp_path / "dora.py").write_text(SHIPPED)
    (tmp_path / "notes.txt").write_text("no submission")
    (tmp_path / ".git").mkdir()
    one = marks.submissions(tmp_path, ["stop"])
    assert one == {
        "ann": {"stop": tmp_path / "ann" / "stop.py"},
        "bob": {},
        "cleo": {"stop": whole},
        "dora": {"stop": tmp_path / "dora.py"},
    }
    assert "dora" not in marks.submissions(tmp_path, ["stop", "top_p"])


def test_a_submission_that_changes_the_checkout_is_told(monkeypatch, capsys, tmp_path):
    hand_in(tmp_path, ann=SHIPPED)
    monkeypatch.setattr(marks, "mark", lambda *a: marks.Mark(10))
    prints = iter(["before", "after"])
    monkeypatch.setattr(marks, "fingerprint", lambda directory: next(prints))
    refuses(monkeypatch, capsys, "has changed this checkout", marks, str(tmp_path))
    assert read(tmp_path)["ann"]["sum"] == "10"


def test_points_are_not_lost_where_their_file_can_not_be_written(monkeypatch, capsys, tmp_path):
    hand_in(tmp_path, ann=SHIPPED)
    grade = mock.Mock(return_value=marks.Mark(10))
    monkeypatch.setattr(marks, "mark", grade)
    (tmp_path / "file").touch()
    refuses(monkeypatch, capsys, str(tmp_path / "file"), marks, str(tmp_path), "--out", tmp_path / "file" / "marks.csv")
    assert not grade.called
    (tmp_path / "marks.csv").mkdir()
    assert call(monkeypatch, marks, str(tmp_path)) == 2
    said = capsys.readouterr()
    assert re.search(r"ann +10 +10", said.out) and str(tmp_path / "marks.csv") in said.err


def test_what_can_not_be_marked_is_one_line(monkeypatch, capsys, tmp_path):
    refuses(monkeypatch, capsys, "no such directory", marks, str(tmp_path / "nowhere"))
    refuses(monkeypatch, capsys, "'wisdom' is not a topic", marks, str(tmp_path), "--topic", "wisdom")
    refuses(monkeypatch, capsys, "nobody handed in NAME/TOPIC.py", marks, str(tmp_path))
    large = tmp_path / "ann.py"
    large.write_bytes(b"#" * (marks.LARGEST + 1))
    assert "larger than" in marks.mark("stop", large, grading.FREE).remark
