"""The chat as its user has it: lines go in, answers come out, Ctrl-C stops one of them, and what was said stays."""

import json
import os
import re
import select
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import tiny
from helpers import call, refuses

from minigpt import load, save
from scripts import chat
from scripts.support import talk as talking
from scripts.support.knobs import KNOBS
from scripts.support.models import model_directory
from scripts.support.talk import Talk, made_from
from scripts.support.terminal import visible
from sft import Message, encode_conversation

CTRL_C = "\x03"
COLOURS = re.compile(r"\x1b\[\d+m")


@pytest.fixture(scope="module")
def models(tmp_path_factory, tok) -> Path:
    """A run directory with a base model and one that was made from it; neither ever ends by itself."""
    runs = tmp_path_factory.mktemp("runs")
    for seed, name in enumerate(("base", "sft")):
        model = tiny(vocab_size=tok.vocab_size, context_length=64, seed=seed)
        save(runs / name, model, tok)
    (runs / "sft" / "made_from.json").write_text(json.dumps({"base": str(runs / "base"), "turns": 2}))
    return runs


@pytest.fixture
def talk(models) -> Talk:
    knobs = {name: knob.default for name, knob in KNOBS.items()}
    return Talk(*load(models / "sft"), str(models / "base"), knobs | {"max_new_tokens": 5})


def session(monkeypatch, capsys, models, lines: list[str], *flags) -> tuple[list[str], str]:
    """What a whole session prints, line by line, and its errors."""
    typed = iter(lines)

    def read(prompt: str) -> str:
        try:
            return next(typed)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", read)
    assert call(monkeypatch, chat, "--model", models / "sft", *flags) == 0
    printed = capsys.readouterr()
    return COLOURS.sub("", printed.out).splitlines(), printed.err


def test_the_model_is_asked_with_the_whole_talk_laid_out_again(talk):
    talk.system = [Message("system", "Be brief.")]
    talk.answer("Where is Ada?")
    talk.answer("And they?")
    (first, said), (second, _) = talk.turns
    assert (first, second) == (Message("user", "Where is Ada?"), Message("user", "And they?"))
    messages = [*talk.system, first, said, second, talk.turns[1][1], Message("user", "Who?")]
    assert talk.lay_out("Who?", talk.turns) == (encode_conversation(talk.tok, messages)[0], 0)


def test_an_answer_is_what_decoding_gives_for_the_talk(talk, capsys):
    from decoding import generate

    talk.answer("Where is Ada?")
    [said] = generate(talk.model, [talk.lay_out("Where is Ada?", [])[0]], max_new_tokens=5, temperature=0)
    assert talk.turns[0][1].content == talk.tok.decode(said.ids)
    assert f"model {talk.tok.decode(said.ids)}" in capsys.readouterr().out


def test_without_history_each_question_stands_for_itself(talk, capsys):
    talk.history = False
    talk.answer("Where?")
    first = capsys.readouterr().out
    talk.answer("Where?")
    assert capsys.readouterr().out == first and talk.turns == []


def test_a_full_window_leaves_out_the_oldest_turns_and_says_so(talk, capsys):
    for number in range(12):
        talk.answer(f"Question {number}?")
    kept = len(talk.turns)
    assert talk.turns[-1][0].content == "Question 11?" and talk.turns[0][0].content == f"Question {12 - kept}?"
    ids, left_out = talk.lay_out("Who?", talk.turns)
    assert len(ids) + 5 <= talk.model.context_length and left_out <= 1
    assert "the window of 64 tokens is full: the oldest turns are left out" in capsys.readouterr().out


def test_a_limit_longer_than_the_window_leaves_the_talk_half_of_it(talk):
    talk.knobs["max_new_tokens"] = 999
    assert talk.lay_out("Who?", [[Message("user", "Where?"), Message("assistant", "Oslo.")]])[1] == 0


def test_the_system_message_is_never_left_out(talk):
    talk.system = [Message("system", "Be brief.")]
    talk.turns = [[Message("user", f"Question {number}?"), Message("assistant", "Yes.")] for number in range(20)]
    ids, left_out = talk.lay_out("Who?", talk.turns)
    assert left_out > 0 and talk.tok.decode(ids).startswith("<|prompt|>Be brief.\n\nQuestion")


def test_a_question_longer_than_the_window_is_an_error_and_the_talk_goes_on(monkeypatch, capsys, models):
    lines, errors = session(monkeypatch, capsys, models, ["why " * 99, "Who?"], "--max-new-tokens", 3)
    assert errors.startswith("error: the question takes") and "the window holds 64" in errors
    assert errors.count("\n") == 1 and lines[1].startswith("model ")


def test_knobs_turn_while_talking(monkeypatch, capsys, models):
    typed = [
        "/temperature 1.5",
        "/top-k 3",
        "/seed 3",
        "Who?",
        "/new",
        "Who?",
        "/seed 4",
        "/new",
        "Who?",
        "/temperature",
    ]
    lines, errors = session(monkeypatch, capsys, models, typed, "--max-new-tokens", 20)
    assert not errors and lines[1:4] == ["temperature 1.5", "top_k 3", "seed 3"]
    first, second, third = (line for line in lines if line.startswith("model "))
    assert first == second != third
    assert lines[-2] == "temperature 0.0"


def test_an_answer_ends_before_a_stop_string_which_nobody_sees(talk, capsys):
    """Set by a flag or while talking; the talk remembers what was shown, and /compare ends both texts there, too."""
    talk.knobs |= {"max_new_tokens": 20, "temperature": 1.0, "seed": 0}
    talk.answer("Where?")
    whole = talk.turns.pop()[1].content
    pairs = [whole[i : i + 2] for i in range(3, len(whole) - 1)]
    stop = next(pair for pair in pairs if pair.isalpha() and whole.index(pair) >= 3)
    capsys.readouterr()
    talk.obey(f"/stop {stop}")
    talk.answer("Where?")
    told, said = capsys.readouterr().out.split("model ")
    assert f"stop {stop!r}" in told
    assert COLOURS.sub("", said) == visible(whole[: whole.index(stop)]) + "\n"
    assert talk.turns.pop()[1].content == whole[: whole.index(stop)]
    talk.obey("/compare Where?")
    _, *rows = capsys.readouterr().out.splitlines()
    assert rows and not any(stop in row for row in rows)
    talk.obey("/stop")
    talk.answer("Where?")
    assert talk.turns[-1][1].content == whole


def test_a_stop_string_may_hold_new_lines_and_is_shown_with_the_knobs(monkeypatch, capsys, models):
    lines, errors = session(monkeypatch, capsys, models, [r"/stop \n\nYou:", "/knobs"], "--stop", r"a\t")
    assert not errors and r"stop '\n\nYou:'" in lines and any(line.startswith("  /stop ") for line in lines)
    lines, _ = session(monkeypatch, capsys, models, ["/knobs"], "--stop", r"a\t", "--stop", "b")
    assert any("/stop" in line and r"'a\t', 'b'" in line for line in lines)
    refuses(monkeypatch, capsys, "entry of stop is ''", chat, "--model", models / "sft", "--stop", "")


def test_a_knob_that_draws_nothing_at_temperature_0_says_so(monkeypatch, capsys, models):
    lines, _ = session(monkeypatch, capsys, models, ["/top_p .9", "/temperature 1", "/top_p .8"])
    assert "without effect while temperature is 0" in lines[1]
    assert lines[3] == "top_p 0.8"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/top_p 2", "top_p is 2.0; expected a number from 0 to 1"),
        ("/temperature warm", "temperature is 'warm'; expected a number"),
        ("/temperature nan", "temperature is nan"),
        ("/top_k 1.5", "top_k is '1.5'; expected a whole number"),
        ("/max_new_tokens 0", "max_new_tokens is 0"),
        ("/seed -1", "seed is -1"),
        ("/wisdom 9", "/wisdom: unknown; the commands are /temperature"),
        ("/compare", "/compare: ask a question first"),
    ],
)
def test_a_bad_line_is_one_error_and_changes_nothing(monkeypatch, capsys, models, line, message):
    lines, errors = session(monkeypatch, capsys, models, ["/knobs", line, "/knobs", "Who?"])
    assert errors.startswith("error: ") and message in errors and errors.count("\n") == 1
    knobs = len(KNOBS) + 1  # and /stop
    assert lines[1 : 1 + knobs] == lines[1 + knobs : 1 + 2 * knobs]
    assert lines[1 + 2 * knobs].startswith("model ")


def test_bad_flags_are_refused_before_the_talk_begins(monkeypatch, capsys, models):
    refuses(monkeypatch, capsys, "top_p is 2.0", chat, "--model", models / "sft", "--top-p", 2)


def test_compare_puts_the_base_model_beside_it_and_leaves_the_talk_alone(talk, models, monkeypatch, capsys):
    from decoding import generate
    from scripts.support.measuring.answers import as_text

    monkeypatch.setattr(talking, "terminal_width", lambda: 100)
    talk.obey("/compare Where is Ada?")
    title, *rows = (line for line in capsys.readouterr().out.splitlines())
    assert title.split() == [str(models / "base"), "continues:", "this", "model", "answers:"]
    for (model, tok), layout, column in (
        (load(models / "base"), as_text, slice(2, 50)),
        (load(models / "sft"), lambda *asked: talk.lay_out(asked[1], [])[0], slice(52, None)),
    ):
        [said] = generate(model, [layout(tok, "Where is Ada?")], max_new_tokens=5, temperature=0)
        assert "".join(row[column] for row in rows).split() == tok.decode(said.ids).split()
    assert talk.turns == []
    talk.answer("Who?")
    capsys.readouterr()
    talk.obey("/compare")
    assert len(talk.turns) == 1 and "continues:" in capsys.readouterr().out


def test_history_is_on_where_the_demonstrations_had_several_turns(monkeypatch, capsys, models, tmp_path, tok):
    lines, _ = session(monkeypatch, capsys, models, [])
    assert lines[0].startswith("the model sees the conversation so far;")
    save(tmp_path / "single", *load(models / "sft"))
    monkeypatch.setattr("builtins.input", lambda _: "")
    for flags, sees in (([], "each question alone, as in fine-tuning"), (["--history"], "the conversation so far;")):
        assert call(monkeypatch, chat, "--model", tmp_path / "single", *flags) == 0
        assert f"the model sees {sees}" in capsys.readouterr().out


def test_fine_tuning_notes_what_a_model_was_made_from(tmp_path, tok):
    from scripts.support.fine_tuning import finetune
    from sft import Example

    turns = [
        Message("user", "Who?"),
        Message("assistant", "Ada."),
        Message("user", "Where?"),
        Message("assistant", "Oslo."),
    ]
    model = tiny(vocab_size=tok.vocab_size, context_length=64).float()
    examples = [Example(turns[:2]), Example(turns)]
    finetune(model, tok, examples, tmp_path / "sft", schedule={"steps": 1}, batch_size=2, seed=0, base="runs/books")
    assert made_from(tmp_path / "sft") == {"base": "runs/books", "turns": 2}
    assert made_from(model_directory(str(tmp_path))) == {"base": None, "turns": 1}


@pytest.mark.parametrize(
    "note",
    ["", "[]", "null", '"base"', '{"base": 3}', '{"turns": "two"}', '{"turns": null}', '{"turns": 1.5}',
     '{"turns": []}', '{"turns": true}', '{"turns": 1e400}', '{"base": ["a"]}', "[" * 100_000,
     '{"base": "\\ud800"}', '{"turns": 0}'],
    ids=lambda note: note[:20],
)  # fmt: skip
def test_a_note_of_another_form_is_refused_by_the_file_s_name(monkeypatch, capsys, tmp_path, tok, note):
    save(tmp_path, tiny(vocab_size=tok.vocab_size), tok)
    (tmp_path / "made_from.json").write_text(note)
    with pytest.raises(ValueError, match=r"made_from\.json"):
        made_from(tmp_path)
    refuses(monkeypatch, capsys, "made_from.json", chat, "--model", tmp_path)


class Terminal:
    """The chat in a terminal of its own, as its user sees it."""

    def __init__(self, *flags):
        pty = pytest.importorskip("pty")
        self.screen = ""
        self.process, self.keyboard = pty.fork()
        if self.process == 0:
            os.execv(sys.executable, [sys.executable, "-m", "scripts.chat", *map(str, flags)])

    def wait_for(self, text: str, key: str = "", patience: float = 60) -> None:
        """Type, and read until the text appears; a Ctrl-C on its own is typed again every second."""
        typed, until = 0.0, time.monotonic() + patience
        self.screen = ""
        while text not in self.screen:
            if key and (typed == 0 or (key == CTRL_C and time.monotonic() > typed + 1)):
                os.write(self.keyboard, key.encode())  # subtle: input() may lose one that comes just as it begins
                typed = time.monotonic()
            assert time.monotonic() < until, self.screen
            if select.select([self.keyboard], [], [], 0.1)[0]:
                try:
                    self.screen += COLOURS.sub("", os.read(self.keyboard, 4096).decode(errors="replace"))
                except OSError:  # the program has ended and closed its terminal
                    raise AssertionError(f"ended before {text!r}: {self.screen}") from None

    def quit(self, patience: float = 60) -> int:
        """Type Ctrl-D until the program has ended, and return how: one that comes before input() begins is lost."""
        until = time.monotonic() + patience
        while (ended := os.waitpid(self.process, os.WNOHANG)) == (0, 0):
            assert time.monotonic() < until, self.screen
            with suppress(OSError):  # the terminal may be closed already
                os.write(self.keyboard, b"\x04")
            time.sleep(0.3)
        return ended[1]


def test_ctrl_c_stops_the_answer_and_not_the_program(tmp_path, tok):
    save(tmp_path, tiny(vocab_size=tok.vocab_size, context_length=100_000), tok)
    terminal = Terminal("--model", tmp_path, "--history", "--max-new-tokens", 50_000)
    try:
        terminal.wait_for("you   ")
        terminal.wait_for("model ", "Who?\n")
        time.sleep(0.3)  # some tokens are said
        terminal.wait_for("(stopped)", CTRL_C)
        terminal.wait_for("an empty line or Ctrl-D quits", CTRL_C)  # nothing to stop here
        terminal.wait_for("max_new_tokens 3\r\n", "/max_new_tokens 3\n")
        terminal.wait_for("(cut after 3 tokens", "Who?\n")
        assert terminal.quit() == 0
    except BaseException:
        os.kill(terminal.process, signal.SIGKILL)
        raise
    finally:
        os.close(terminal.keyboard)


def test_an_answer_that_was_stopped_stays_in_the_talk_and_ends_its_turn(talk, monkeypatch, capsys):
    from minigpt.tokenizer import END, PROMPT

    talk.knobs["max_new_tokens"], step, calls = 30, talk.model.step, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 8:
            signal.raise_signal(signal.SIGINT)
        return step(*arguments)

    monkeypatch.setattr(talk.model, "step", interrupted)
    talk.answer("Who?")
    assert "(stopped)" in capsys.readouterr().out
    [(question, said)] = talk.turns
    assert question.content == "Who?" and len(said.content) > 0
    assert f"{said.content}{END}{PROMPT}And?" in talk.tok.decode(talk.lay_out("And?", talk.turns)[0])
    talk.knobs["max_new_tokens"] = 4
    talk.answer("And?")
    assert len(talk.turns) == 2
