"""The exercises: each one's gap fails its tests, the shipped source passes them, and nobody's work is written over."""

import ast
import contextlib
import io
import os
import re
import runpy
import shlex
import subprocess
import sys
import tempfile
import textwrap
import traceback
from pathlib import Path
from unittest import mock

import pytest
from helpers import call, refuses

from plain_or_fast import plain
from scripts import exercise
from scripts.exercise import ROOT, TOPICS, make, without
from scripts.lab.claims import CLAIMS
from scripts.support.exercises import cases, grading
from scripts.support.exercises.guide import lecture_order, read_topic
from scripts.support.run_directory import locked


def graded(directory, tests: list[str], fast: bool) -> str:
    """What pytest prints in a directory, as a student has it."""
    command = [sys.executable, "-m", "pytest", "-x", "-n", "0", "--tb=line", *tests]
    edition = os.environ | {"MINIGPT_PLAIN": "0" if fast else "1"}  # else a faster twin would run in place of the gap
    return subprocess.run(command, cwd=directory, env=edition, capture_output=True, text=True).stdout


def all_tests(fast: bool) -> list[str]:
    """The tests of all exercises as one call: every file, and every name that one of them chooses."""
    pieces = [piece for piece in TOPICS.values() if piece.fast == fast]
    calls = [shlex.split(piece.tests) for piece in pieces]  # files, "-k", names
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


def test_the_plain_pieces_come_first_and_each_kind_in_the_lecture_s_order():
    found = [lecture_order(piece) for piece in TOPICS.values()]
    assert found == sorted(found) and len(set(found)) == len(found)


def test_every_statement_with_code_has_an_exercise():
    assert {piece.statement for piece in TOPICS.values()} == CLAIMS.keys() - {"S7"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("rules", "rulez"), "top_p.toml: 'rules' is missing"),
        (("place", "plaice"), "unexpected keyword argument 'plaice'"),
        (("[[wrong]]", "[wrong"), "top_p.toml: "),
    ],
)
def test_a_topic_s_file_with_a_wrong_key_is_named(tmp_path, change, says):
    text = (ROOT / "scripts/support/exercises/topics/top_p.toml").read_text(encoding="utf-8")
    (tmp_path / "top_p.toml").write_text(text.replace(*change), encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(says)):
        read_topic(tmp_path / "top_p.toml")


def test_an_exercise_says_where_to_write_and_how_to_grade_and_is_not_written_over(monkeypatch, capsys, tmp_path):
    (tmp_path / "minigpt").mkdir()
    for name in exercise.COPIED:
        if not (tmp_path / name).exists():
            (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "minigpt" / "tokenizer.py").write_text((ROOT / "minigpt" / "tokenizer.py").read_text())
    monkeypatch.setattr(exercise, "ROOT", tmp_path)
    with locked(tmp_path / "exercises"):
        for more in ([], ["--hint"]):
            refuses(monkeypatch, capsys, "another run writes here now", exercise, "--topic", "bpe_merge", *more)
    assert call(monkeypatch, exercise, "--topic", "bpe_merge") == 0
    printed = capsys.readouterr().out
    assert "write it in  exercises/bpe_merge/minigpt/tokenizer.py" in printed
    assert "make grade TOPIC=bpe_merge" in printed
    file = tmp_path / "exercises" / "bpe_merge" / "minigpt" / "tokenizer.py"
    assert "your turn" in file.read_text()
    file.write_text("my work")
    refuses(monkeypatch, capsys, "OVERWRITE=1", exercise, "--topic", "bpe_merge")
    many = exercise.shutil.Error([("a", "b", "a file: No space left"), ("c", "d", "another file: No space left")])
    for name, problem in (("copy", OSError(28, "No space left", "a file")), ("copytree", many)):
        with monkeypatch.context() as full:
            full.setattr(exercise.shutil, name, mock.Mock(side_effect=problem))
            refuses(full, capsys, "error: a file: No space left", exercise, "--topic", "bpe_merge", "--overwrite")
    assert file.read_text() == "my work" and len(list((tmp_path / "exercises").iterdir())) == 1
    assert call(monkeypatch, exercise, "--topic", "bpe_merge", "--overwrite") == 0
    assert "your turn" in file.read_text()


def test_an_unknown_topic_lists_the_topics(monkeypatch, capsys):
    refuses(monkeypatch, capsys, "'wisdom' is not a topic; there are merge_pair, ", exercise, "--topic", "wisdom")


def test_the_list_tells_statement_file_and_state_of_each(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(exercise, "ROOT", tmp_path)
    for topic, change in [("stop", "pass"), ("top_p", "raise NotImplementedError('your turn: ' + task)")]:
        file = tmp_path / "exercises" / topic / TOPICS[topic].file
        file.parent.mkdir(parents=True)
        file.write_text(change.replace("' + task", TOPICS[topic].task + "'"))
    file = tmp_path / "exercises" / "norm" / TOPICS["norm"].file
    file.parent.mkdir(parents=True)
    file.write_text("solution")
    (tmp_path / "exercises" / "norm" / grading.SOLVED).write_text(grading.fingerprint(file))

    def listed() -> str:
        assert call(monkeypatch, exercise) == 0
        return capsys.readouterr().out

    printed = listed()
    for topic, piece in TOPICS.items():
        state = {"stop": "tried", "norm": "solved"}.get(topic, "open")
        assert re.search(rf"{state} +{piece.statement} +{topic} +{piece.file}: {re.escape(piece.name)}", printed), topic
    assert f"{len(TOPICS) - 2} open, 1 tried, 1 solved." in printed
    file.write_text("another one")  # changed since it was graded
    assert "2 tried, 0 solved." in listed()


def test_each_exercise_has_rules_cases_two_wrong_answers_and_three_hints_of_rising_strength():
    for topic, piece in TOPICS.items():
        assert piece.rules and piece.cases and len(piece.wrong) >= 2 and len(set(piece.hints)) == 3, topic
        assert re.search(r"[`(\[→/=]", piece.hints[2]), topic


@pytest.mark.parametrize("topic", TOPICS)
def test_the_first_cases_are_right_on_the_shipped_source_and_its_mistakes_are_wrong(topic):
    piece, known = TOPICS[topic], {}
    with contextlib.nullcontext() if piece.fast else plain():
        exec(piece.prelude, known)
        for case in piece.cases:
            judged = cases.judge(case._asdict(), known)
            assert judged["right"], (case, judged)
            right = cases.plain(eval(case.right, dict(known)))
            for wrong in case.mistakes:
                assert not cases.same(cases.plain(eval(wrong, dict(known))), right), (case, wrong)


@pytest.mark.parametrize("topic", TOPICS)
def test_a_task_states_signature_docstring_rules_and_an_example(topic):
    text, piece = exercise.describe(topic), TOPICS[topic]
    words = " ".join(text.split())
    function = exercise.find((ROOT / piece.file).read_text(encoding="utf-8"), piece.name)
    assert f"{piece.name}({ast.unparse(function.args)})" in words and piece.task in words
    assert "Rules: " + piece.rules in words and "For example: " in words
    assert all(len(line) <= 125 for line in text.splitlines())


@pytest.mark.parametrize(
    ("topic", "helper"),
    [("beam", "found = lambda"), ("stop", "S = Settings("), ("multinomial", "D = lambda"),
     ("collation", "rows = Rows("),
     ("choice", "counts = uncached("), ("top_k", "T, OUT = "), ("fast_top_k", "T, OUT = "),
     ("kv_cache", "def rest():"), ("bpe_merge", None),
     ("attention_backward", None)],
)  # fmt: skip
def test_what_an_example_uses_is_shown_beside_it(topic, helper):
    text = exercise.describe(topic)
    assert f"\n    {helper}" in text.split("For example: ")[1] if helper else "\nwhere" not in text


def test_what_an_example_does_not_use_is_not_shown():
    shown = TOPICS["attention"].helpers(TOPICS["attention"].cases[0].code)
    assert any(line.startswith("v = ") for line in shown) and not any(line.startswith("two = ") for line in shown)


def test_hints_come_one_by_one_or_as_many_as_asked(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(exercise, "ROOT", tmp_path)

    def hinted(*more) -> str:
        assert call(monkeypatch, exercise, "--hint", "--topic", "top_p", *more) == 0
        return capsys.readouterr().out

    shown = [hinted().count(" of 3: ") for _ in range(4)]
    assert shown == [1, 2, 3, 3] and hinted("--n", 2).count(" of 3: ") == 2
    hints = tmp_path / "exercises" / "hints.json"
    for odd in ('{"top_p": "3"}', '{"top_p": -9}'):
        hints.write_text(odd)
        assert hinted().count(" of 3: ") == 1
    for damaged in ("", "{", "[1]", "[" * 100_000):
        hints.write_text(damaged)
        refuses(monkeypatch, capsys, f"{hints}:", exercise, "--hint", "--topic", "top_p")
    refuses(monkeypatch, capsys, "--topic is missing", exercise, "--hint")
    refuses(monkeypatch, capsys, "'wisdom' is not a topic", exercise, "--hint", "--topic", "wisdom")


def test_an_exercise_that_was_not_begun_can_not_be_graded(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(exercise, "ROOT", tmp_path)
    refuses(monkeypatch, capsys, "make exercise TOPIC=top_p first", exercise, "--grade", "--topic", "top_p")


LONG = {
    "attention_backward", "base_answers", "choice", "fast_batch", "fast_cache", "fast_merges", "fast_top_k",
    "fine_tune", "kept_logits", "kv_cache",
}  # fmt: skip


def forks(test):
    """Mark a test that forks this process."""
    test = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")(test)
    return pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork")(test)


@pytest.fixture(scope="module")
def workbench(tmp_path_factory):
    """A student's copy, in which one file after the other is changed."""
    directory = tmp_path_factory.mktemp("workbench")
    gap = make("stop", directory, overwrite=True)
    gap.write_text((ROOT / TOPICS["stop"].file).read_text(encoding="utf-8"), encoding="utf-8")
    return directory


def plant(directory: Path, topic: str, lines: str) -> list[str]:
    """What is said of a copy where these lines stand in the gap; nothing if its first cases are right."""
    piece = TOPICS[topic]
    shipped = (ROOT / piece.file).read_text(encoding="utf-8")
    text = without(shipped, piece)
    [(gap, indent)] = re.findall(r"^(( *)raise NotImplementedError\(['\"]your turn.*)$", text, re.M)
    (directory / piece.file).write_text(text.replace(gap, textwrap.indent(lines, indent)), encoding="utf-8")
    said, share = grading.try_cases(piece, directory)
    (directory / piece.file).write_text(shipped, encoding="utf-8")
    return [] if share == 1 else said


def forked(command, directory, fast, limits, text="") -> grading.Done:
    """What grading.in_directory gives, but without waiting for torch: a child of this process has loaded it already."""
    with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.dup2(stdout.fileno(), 1)
                os.dup2(stderr.fileno(), 2)
                os.environ["MINIGPT_PLAIN"] = "0" if fast else "1"
                for name in list(sys.modules):
                    if name.partition(".")[0] in ("plain_or_fast", "minigpt", "decoding", "sft", "scripts"):
                        del sys.modules[name]
                os.chdir(directory)
                sys.path.insert(0, str(directory))
                sys.stdin, sys.stderr = io.StringIO(text), stderr
                runpy.run_path(command[1], run_name="__main__")
                code = 0
            except BaseException:
                traceback.print_exc(file=stderr)
            finally:
                stderr.flush()
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        stdout.seek(0)
        stderr.seek(0)
        return grading.Done(code, stdout.read(), stderr.read())


@forks
@pytest.mark.parametrize(
    "topic", [pytest.param(topic, marks=pytest.mark.slow) if topic in LONG else topic for topic in TOPICS]
)
def test_each_typical_wrong_answer_is_named(monkeypatch, workbench, topic):
    monkeypatch.setattr(grading, "in_directory", forked)
    for wrong in TOPICS[topic].wrong:
        said = plant(workbench, topic, wrong.answer)
        assert any(wrong.says in line for line in said) and any("✗" in line for line in said), (wrong, said)


@pytest.mark.slow
def test_a_wrong_answer_is_named_in_a_process_of_its_own_too(workbench):
    said = plant(workbench, "top_p", TOPICS["top_p"].wrong[0].answer)
    assert any("nothing was taken out" in line for line in said)


@forks
@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ("while True:\n    ", "the file can't be run: "),
        ("print('eos')\nimport os\nos._exit(0)", "is there an exit in it?"),
        ("import sys\nsys.exit('enough')", "yours: SystemExit: enough"),
        ("return 1 / (length - 1)", ": return 1 / (length - 1)"),
    ],
)
def test_code_that_can_t_be_run_or_exits_is_graded_all_the_same(monkeypatch, workbench, lines, says):
    monkeypatch.setattr(grading, "in_directory", forked)
    said = plant(workbench, "stop", lines)
    assert any(says in line for line in said), said


def test_an_error_that_only_the_project_s_tests_meet_names_its_line_in_the_piece(tmp_path):
    piece = TOPICS["stop"]._replace(file="house/piece.py", tests="test_piece.py")
    (tmp_path / "house").mkdir()
    (tmp_path / piece.file).write_text(
        "def half(n):\n    return half_of(n)\n\n\ndef half_of(n):\n    return n / (n < 9)\n"
    )
    (tmp_path / piece.tests).write_text(
        "from house import piece\n\ndef test_a_rarer_one():\n    assert piece.half(9)\n"
    )
    said, solved = grading.try_tests(piece, tmp_path)
    assert not solved and said[0] == "  ✗ the first cases are right, a rarer one isn't: a rarer one"
    assert said[1:] == ["      ZeroDivisionError: division by zero", "      at line 6: return n / (n < 9)"]


def test_a_task_s_paragraphs_are_filled_and_its_examples_stay_as_they_are():
    text = exercise.describe("attention")
    assert "key and value: (B, K, S, D). Each of the K heads\nserves H/K query heads (Ainslie" in text
    assert "v).flatten()\ntensor([1., 2.])\n" in text


def test_a_gap_is_called_unwritten(tmp_path):
    make("stop", tmp_path / "stop")
    assert grading.try_cases(TOPICS["stop"], tmp_path / "stop") == (["  nothing is written yet"], 0)


@pytest.mark.slow
def test_a_solution_is_graded_solved_and_a_rarer_mistake_is_told_by_a_test(monkeypatch, capsys, tmp_path):
    directory = tmp_path / "exercises" / "top_p"
    file = make("top_p", directory)
    monkeypatch.setattr(exercise, "ROOT", tmp_path)
    shipped = (ROOT / TOPICS["top_p"].file).read_text(encoding="utf-8")
    file.write_text(shipped)
    assert call(monkeypatch, exercise, "--grade", "--topic", "top_p") == 0
    assert "top_p: solved" in capsys.readouterr().out
    assert grading.state(TOPICS["top_p"], directory, "your turn") == "solved"
    assert "ROUNDING).roll" in shipped
    file.write_text(shipped.replace("p - ROUNDING).roll", "p).roll"))  # unforgiving
    assert call(monkeypatch, exercise, "--grade", "--topic", "top_p") == 1
    printed = capsys.readouterr().out
    assert "a rarer one isn't: " in printed and "very edge" in printed and "not yet" in printed, printed
    assert grading.state(TOPICS["top_p"], directory, "your turn") == "tried"


@pytest.mark.slow
@pytest.mark.parametrize("topic", TOPICS)
def test_a_gap_fails_the_tests_of_its_topic(tmp_path, topic):
    piece = TOPICS[topic]
    make(topic, tmp_path / topic)
    printed = graded(tmp_path / topic, shlex.split(piece.tests), piece.fast)
    assert f"NotImplementedError: your turn: {piece.task}" in printed, printed
    assert re.search(r"\n1 (failed|error)", printed), printed
    assert piece.fast or "passed" not in printed, printed  # a twin's tests run in the plain edition, too


@pytest.mark.slow
@pytest.mark.parametrize("fast", [False, True])
def test_the_shipped_source_passes_the_tests_of_all_topics(fast):
    printed = graded(ROOT, all_tests(fast), fast)
    assert re.search(r"\n\d+ passed, (\d+ skipped, )?\d+ deselected in", printed), printed
