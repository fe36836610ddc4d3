"""The exercises: each one's gap fails its tests, the shipped source passes them, and nobody's work is written over."""

import ast
import os
import re
import shlex
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from helpers import call, refuses

from plain_or_fast import plain
from scripts import exercise
from scripts.exercise import ROOT, TOPICS, make, without
from scripts.support.exercises import cases, grading
from scripts.support.exercises.guide import GUIDES


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
    assert "write it in  exercises/bpe_merge/minigpt/tokenizer.py" in printed
    assert "make grade TOPIC=bpe_merge" in printed
    file = tmp_path / "exercises" / "bpe_merge" / "minigpt" / "tokenizer.py"
    assert "your turn" in file.read_text()
    file.write_text("my work")
    refuses(monkeypatch, capsys, "OVERWRITE=1", exercise, "--topic", "bpe_merge")
    assert file.read_text() == "my work"
    assert call(monkeypatch, exercise, "--topic", "bpe_merge", "--overwrite") == 0
    assert "your turn" in file.read_text()


def test_an_unknown_topic_lists_the_topics(monkeypatch, capsys):
    refuses(monkeypatch, capsys, "'wisdom' is not a topic; there are bpe_merge, ", exercise, "--topic", "wisdom")


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


def test_each_exercise_has_rules_cases_and_three_hints_of_rising_strength():
    assert GUIDES.keys() == TOPICS.keys()
    for topic, guide in GUIDES.items():
        assert guide.rules and guide.cases and len(set(guide.hints)) == 3, topic
        assert sum(
            "`" in hint or "(" in hint or "[" in hint or "→" in hint or "/" in hint for hint in guide.hints[2:]
        ), topic


@pytest.mark.parametrize("topic", TOPICS)
def test_the_first_cases_are_right_on_the_shipped_source_and_its_mistakes_are_wrong(topic):
    guide, known = GUIDES[topic], {}
    with plain():
        exec(guide.prelude, known)
        for case in guide.cases:
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
    assert "Rules: " + " ".join(GUIDES[topic].rules.split()) in words and "For example: " in words
    assert all(len(line) <= 125 for line in text.splitlines())


@pytest.mark.parametrize(
    ("topic", "helper"),
    [("beam", "found = lambda"), ("stop", "S = Settings("), ("multinomial", "D = lambda"),
     ("collation", "rows = Rows("),
     ("choice", "counts = uncached("), ("top_k", "T, OUT = "), ("kv_cache", "def rest():"), ("bpe_merge", None),
     ("attention_backward", None)],
)  # fmt: skip
def test_what_an_example_uses_is_shown_beside_it(topic, helper):
    text = exercise.describe(topic)
    assert f"\n    {helper}" in text.split("For example: ")[1] if helper else "\nwhere" not in text


def test_hints_come_one_by_one_or_as_many_as_asked(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(exercise, "ROOT", tmp_path)

    def hinted(*more) -> str:
        assert call(monkeypatch, exercise, "--hint", "--topic", "top_p", *more) == 0
        return capsys.readouterr().out

    shown = [hinted().count(" of 3: ") for _ in range(4)]
    assert shown == [1, 2, 3, 3] and hinted("--n", 2).count(" of 3: ") == 2
    refuses(monkeypatch, capsys, "--topic is missing", exercise, "--hint")
    refuses(monkeypatch, capsys, "'wisdom' is not a topic", exercise, "--hint", "--topic", "wisdom")


def test_an_exercise_that_was_not_begun_can_not_be_graded(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(exercise, "ROOT", tmp_path)
    refuses(monkeypatch, capsys, "make exercise TOPIC=top_p first", exercise, "--grade", "--topic", "top_p")


def planted(directory: Path, topic: str, lines: str) -> list[str]:
    """What is said of a copy where these lines stand in the gap."""
    file = make(topic, directory, overwrite=True)
    text = file.read_text(encoding="utf-8")
    [(gap, indent)] = re.findall(r"^(( *)raise NotImplementedError\('your turn.*)$", text, re.M)
    file.write_text(text.replace(gap, textwrap.indent(lines, indent)), encoding="utf-8")
    said, right = grading.try_cases(topic, TOPICS[topic], directory)
    return [] if right else said


@pytest.mark.parametrize(
    ("topic", "lines", "says"),
    [
        ("top_p", "return logits", "nothing was taken out"),
        pytest.param("top_p", """ranked, order = logits.sort(descending=True, stable=True)
mass = ranked.double().softmax(-1).cumsum(-1)
out = (mass >= p).roll(1, -1)
out[..., 0] = False
return ranked.masked_fill(out, OUT)""", "still in sorted order", marks=pytest.mark.slow),
        pytest.param("top_p", """ranked, order = logits.sort(descending=True, stable=True)
out = ranked.double().softmax(-1).cumsum(-1) > p
return torch.empty_like(logits).scatter(-1, order, ranked.masked_fill(out, OUT))""", "the largest set below p",
                     marks=pytest.mark.slow),
        pytest.param("top_k", "return logits.masked_fill(logits < logits.topk(min(k, logits.numel()))[0].min(), OUT)",
                     "exactly k stay", marks=pytest.mark.slow),
        pytest.param("bpe_merge", "return []", "The most frequent pair is merged first.", marks=pytest.mark.slow),
        pytest.param("norm", "return x / x.norm(dim=-1, keepdim=True) * weight", "not their sum",
                     marks=pytest.mark.slow),
        pytest.param("norm", "return (x - x.mean(-1, keepdim=True)) / x.std(-1, correction=0, keepdim=True) * weight",
                     "that is LayerNorm", marks=pytest.mark.slow),
        pytest.param("attention", "return softmax(query @ key.transpose(2, 3) / math.sqrt(query.size(-1))) @ value",
                     "the causal mask is missing", marks=pytest.mark.slow),
        pytest.param("attention", """mask = causal_mask(query.size(2), key.size(2))
return softmax((query @ key.transpose(2, 3)).masked_fill(~mask, -math.inf)) @ value""", "aren't divided by the root",
                     marks=pytest.mark.slow),
        pytest.param("cross_entropy", """learnt = (targets != ignore).float()
return -(logits.log_softmax(-1).gather(-1, targets.clamp(0)[:, None])[:, 0] * learnt).mean()""",
                     "only the learnt ones count", marks=pytest.mark.slow),
        pytest.param("stop", """if length == settings.max_new_tokens:
    return "length"
return "eos" if id in settings.end_ids else None""", "the end token is told before", marks=pytest.mark.slow),
        pytest.param("multinomial", "return logits.argmax(-1)", "the uniform number decides", marks=pytest.mark.slow),
        pytest.param("temperature", "return logits * t", "it was flattened", marks=pytest.mark.slow),
        pytest.param("temperature", "return logits / t", "divided by 0", marks=pytest.mark.slow),
        pytest.param("choice", "id = filtered.argmax().item()", "the most probable token every time",
                     marks=pytest.mark.slow),
        pytest.param("collation", """inputs = [rows.ids[i][:-1] for i in picks]
return Batch.from_rows(inputs, [rows.ids[i][1:] for i in picks])""", "the prompt is learnt", marks=pytest.mark.slow),
        pytest.param("template_mask", """for message in dialogue:
    if message.role == "assistant":
        add(tok.encode(message.content), learnt=True)
        add(fixed(template.end), learnt=False)
    else:
        add([*fixed(template.question), *tok.encode(message.content), *fixed(template.answer)], learnt=False)""",
                     "the end token isn't learnt", marks=pytest.mark.slow),
        pytest.param("kv_cache", "pass", "only the new tokens are there", marks=pytest.mark.slow),
        pytest.param("stop", "while True:\n    ", "can't be run", marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_a_typical_mistake_is_named(tmp_path, topic, lines, says):
    said = planted(tmp_path / topic, topic, lines)
    assert any(says in line for line in said) and any("✗" in line for line in said), said


def test_a_gap_is_called_unwritten(tmp_path):
    make("stop", tmp_path / "stop")
    assert grading.try_cases("stop", TOPICS["stop"], tmp_path / "stop") == (["  nothing is written yet"], False)


def test_each_gradient_is_told_apart():
    known = {}
    exec(GUIDES["attention_backward"].prelude, known)
    right = known["twin"].attention_backward
    wrong = lambda dy, cache: (right(dy, cache)[0] + 0.5, right(dy, cache)[1])
    known["twin"] = type("Twin", (), {"attention": staticmethod(known["twin"].attention), "attention_backward": wrong})
    known["twin"].attention_backward = staticmethod(wrong)
    judged = cases.judge(GUIDES["attention_backward"].cases[0]._asdict(), known)
    assert not judged["right"] and "'dx': 0.5, 'query': 0.0" in judged["got"]


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
