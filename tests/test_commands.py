"""Commands in rough hands: any text, any terminal, two at once, a kill at any moment. `make` itself is run here."""

import ast
import io
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
import torch
from conftest import TEXTS, tiny
from helpers import LeavesAt, call, keeps_before_it_shows, need, refuses
from test_writing import killed_at

from minigpt import GPT, GPTConfig, load, save
from minigpt.files import directory
from minigpt.files.checkpoint import checkpoints
from minigpt.loop import Step
from scripts import (
    ask,
    chat,
    compare,
    demo,
    experiments,
    finetune,
    generate,
    pretrain,
    scale,
    show_sft,
    tokens,
    toyworld,
    twin,
)
from scripts.book import __main__ as book
from scripts.lab import bench, bench_tokenizer, claims, mutants, race
from scripts.playground import __main__ as playground
from scripts.support import models, pretraining, terminal
from scripts.support.pretraining import check_memory
from scripts.support.run_directory import locked, save_anew
from scripts.support.stop_and_resume import LossLog

ROOT = Path(__file__).parent.parent
HOSTILE = "\x1b]0;owned\x07\x1b[2J\u202e $$ 🙂"
SMALL = ["--steps", 3, "--context-length", 48, "--d-model", 32, "--d-ff", 32, "--vocab-size", 300]


@pytest.fixture
def model_directory(tmp_path, tok):
    save(tmp_path / "model", tiny(torch.float32, vocab_size=tok.vocab_size, context_length=64), tok)
    return tmp_path / "model"


@pytest.fixture
def demonstrations(tmp_path):
    path = tmp_path / "data.jsonl"
    rows = [{"prompt": f"Say {number}", "response": HOSTILE} for number in range(12)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def course(tmp_path):
    """A directory with the Makefile, and a `python` that shows the arguments it was given."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    for file in ("pyproject.toml", "constraints.txt"):
        (tmp_path / file).touch()
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    for done in ("demo", "test", "smollm", "playground"):
        (tmp_path / ".venv" / f"{done}.done").touch()
    python = tmp_path / ".venv" / "bin" / "python"
    python.write_text(
        f"#!/bin/sh\nexec {sys.executable} -c 'import json, sys; print(json.dumps(sys.argv[1:]))' \"$@\"\n"
    )
    python.chmod(0o755)
    return tmp_path


def make(course: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    outside = {name: value for name, value in os.environ.items() if "MAKE" not in name and name != "MFLAGS"}
    return subprocess.run(
        ["make", *arguments], cwd=course, env=outside | environment, capture_output=True, text=True, timeout=60
    )


def given(course: Path, *arguments: str, **environment: str) -> list[str]:
    """What the program is called with, after its name."""
    done = make(course, *arguments, **environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])[2:]


HARD = [
    "costs $5",
    "$(shell touch x)",
    "`touch x`",
    "$(touch x)",
    "-hello",
    "two\nlines\n-x",
    "x'; touch x; echo '",
    '"; touch x; "',
    "a \\ b \\",
    "#no comment",
    "100 %",
    "${HOME} $$ $@",
    "tab\there",
    "é 🙂 ␛",
]


@pytest.mark.parametrize("text", HARD)
@pytest.mark.parametrize(
    ("target", "variable", "flag"),
    [
        ("tokens", "TEXT", "--text"),
        ("tokens", "MODEL", "--model"),
        ("generate", "PROMPT", "--prompt"),
        ("chat", "SYSTEM", "--system"),
        ("exercise", "TOPIC", "--topic"),
        ("pretrain", "DATA", "--data"),
        ("sft", "OUT", "--out"),
        ("ask", "QUESTION", "--question"),
        ("generate", "STRATEGY", "--strategy"),
        ("generate", "K", "--top-k"),
        ("pretrain", "RESUME", "--resume"),
    ],
)
def test_make_passes_every_text_on_as_it_was_typed(course, text, target, variable, flag):
    arguments = [
        target,
        *(f"{name}=x" for name in ("TEXT", "PROMPT", "DATA") if name != variable),
        f"{variable}={text}",
    ]
    assert f"{flag}={text}" in given(course, *arguments)
    assert make(course, "-n", *arguments).returncode == 0
    assert not (course / "x").exists()


def test_make_drops_spaces_before_a_text_and_args_keep_them(course, monkeypatch, capsys, model_directory):
    assert given(course, "tokens", "TEXT=  two  words  ") == ["--text=two  words  "]
    [passed_on] = given(course, "tokens", "ARGS=--text ' hello'")
    assert call(monkeypatch, tokens, passed_on, "--model", model_directory) == 0
    assert " tokens for 6 bytes" in capsys.readouterr().out


def test_make_runs_nothing_that_stands_in_args_or_in_an_unknown_variable(course):
    typed = "--seed 1; touch x `touch x` $(touch x)"
    assert given(course, "tokens", "TEXT=a", f"ARGS={typed}", "OTHER=$(shell touch x)") == [
        "--text=a",
        f"--args={typed}",
    ]
    assert not (course / "x").exists()


def test_a_variable_of_the_environment_is_no_argument(course):
    environment = dict(
        OUT="/elsewhere", DATA="other.txt", P=".1", T=".2", K="3", SEED="4", STEPS="5", OVERWRITE="1", RESUME="1"
    )
    assert given(course, "generate", "PROMPT=a", **environment) == ["--prompt=a"]
    assert given(course, "sft", "DATA=a b.jsonl", "OUT=my run", **environment) == ["--data=a b.jsonl", "--out=my run"]
    assert "DATA" in make(course, "pretrain", **environment).stderr


def test_make_says_in_its_own_words_what_is_missing(course):
    for target, needed in [
        ("pretrain", "DATA"),
        ("sft", "DATA"),
        ("tokens", "TEXT"),
        ("ask", "QUESTION"),
        ("exercise", "TOPIC"),
        ("grade", "TOPIC"),
        ("hint", "TOPIC"),
    ]:
        done = make(course, target)
        assert done.returncode == 2 and f'make {target} needs {needed}="…"' in done.stderr and not done.stdout
    assert given(course, "pretrain", "ARGS=--help") == ["--args=--help"]
    assert given(course, "pretrain", "DATA=a", "OVERWRITE=0") == ["--data=a"]
    assert given(course, "pretrain", "DATA=a", "OVERWRITE=1") == ["--data=a", "--overwrite"]


def test_args_are_split_as_a_shell_would(monkeypatch, capsys):
    assert call(monkeypatch, tokens, "--args=--text 'a  b' --model base") in (0, 2)
    assert sys.argv[1:] == ["--text", "a  b", "--model", "base"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--strategy", "beam", "--temperature", 0.5], "--temperature: beam has no such knob"),
        (["--strategy", "beam", "--top-p", 0.5], "--top-p: beam"),
        (["--strategy", "beam", "--repetition-penalty", 2], "--repetition-penalty: beam"),
        (["--strategy", "greedy", "--width", 3], "--width: greedy"),
        (["--strategy", "greedy", "--top-k", 3], "--top-k: greedy"),
        (["--task", "code-comments", "--width", 3], "--width: code-comments"),
        (["--task", "code-comments", "--strategy", "beam"], "--strategy beam: leave it out"),
        (["--length-penalty", 1], "--length-penalty: top_p"),
        (["--seed", -1], "--seed: '-1'"),
        (["--max-new-tokens", 0], "--max-new-tokens: '0'"),
        (["--top-k", "x"], "--top-k"),
    ],
)
def test_a_knob_of_another_algorithm_is_refused_by_name(monkeypatch, capsys, flags, message):
    refuses(monkeypatch, capsys, message, generate, "--prompt", "a", "--model", "nowhere", *flags)


@pytest.mark.parametrize(
    "flags",
    [
        ["--batch-size", 0],
        ["--batch-size", 1.5],
        ["--batch-size", 10**12],
        ["--n-layers", 10**12],
        ["--d-model", 10**12],
        ["--d-ff", 10**12],
        ["--seed", -1],
        ["--save-every", -1],
        ["--resume", 0],
        ["--resume", ""],
        ["--steps", 0],
        ["--backend", "numpy", "--optimizer", "muon"],
        ["--backend", "numpy", "--precision", "bf16"],
        ["--out", ""],
        ["--lr", "nan"],
        ["--backend", "numpy", "--dropout", 0.1],
        ["--backend", "numpy", "--save-every", 0],
        ["--optimizer", "adamw", "--muon-lr", 0.1],
    ],
)
def test_pretraining_checks_every_number_before_it_deletes_anything(
    monkeypatch, capsys, tmp_path, model_directory, flags
):
    (tmp_path / "text.txt").write_text(" ".join(TEXTS) * 60)
    before = {path: path.read_bytes() for path in model_directory.iterdir()}
    arguments = ["--data", tmp_path / "text.txt", "--out", model_directory, "--overwrite"]
    refuses(monkeypatch, capsys, "", pretrain, *arguments, *flags)
    assert {path: path.read_bytes() for path in model_directory.iterdir()} == before


def test_what_a_model_and_a_batch_take_is_compared_with_the_machine_s_memory(monkeypatch):
    config = GPTConfig(vocab_size=300, context_length=48, n_layers=2, n_heads=4, d_model=64, d_ff=96)
    block = sum(parameter.numel() for parameter in GPT(config).blocks[0].parameters() if parameter.ndim == 2)
    pages = {"SC_PHYS_PAGES": 2 * 16 * block, "SC_PAGE_SIZE": 1}
    monkeypatch.setattr(os, "sysconf", pages.get, raising=False)
    check_memory(config, batch_size=8)
    check_memory(replace(config, n_layers=4), batch_size=8, shares=2)
    with pytest.raises(
        ValueError, match=r"--n-layers 3, --d-model 64, --d-ff 96: training takes .* of memory at least"
    ):
        check_memory(replace(config, n_layers=3), batch_size=8)
    with pytest.raises(ValueError, match=r"--batch-size 1000000: training takes 0.2 GB of memory at least"):
        check_memory(config, batch_size=10**6)


@pytest.mark.parametrize(
    "flags",
    [
        ["--batch-size", 0],
        ["--seed", -1],
        ["--answers", -1],
        ["--replay", 2],
        ["--out", " "],
        ["--steps", 0],
        ["--lr", -1],
        ["--loss-on", "x"],
    ],
)
def test_fine_tuning_checks_every_number_before_it_writes(
    monkeypatch, capsys, tmp_path, model_directory, demonstrations, flags
):
    (tmp_path / "text.txt").write_text(" ".join(TEXTS) * 60)
    save(tmp_path / "old", *load(model_directory))
    before = {path: path.read_bytes() for path in (tmp_path / "old").iterdir()}
    arguments = ["--data", demonstrations, "--base", model_directory, "--out", tmp_path / "old", "--overwrite"]
    refuses(monkeypatch, capsys, "", finetune, *arguments, "--corpus", tmp_path / "text.txt", *flags)
    assert {path: path.read_bytes() for path in (tmp_path / "old").iterdir()} == before


@pytest.mark.parametrize(
    ("module", "flags", "message"),
    [
        (mutants, ["--jobs", 0], "--jobs: '0'"),
        (mutants, ["--jobs", 10**12], "--jobs: '1000000000000': must be a whole number, at least 1 and at most 256"),
        (bench_tokenizer, ["--vocab-size", 10**12], "at most 4194304"),
        (compare, ["--prompt", "a", "--runs", 10**12], "at most 1000"),
        (twin, ["--steps", "9" * 5000], "--steps: '9999"),
        (demo, ["--seed", -1], "--seed: '-1'"),
        (twin, ["--steps", 0], "--steps: '0'"),
        (compare, ["--prompt", "a", "--runs", 1], "--runs: '1'"),
        (experiments, ["--steps", "many"], "--steps: 'many'"),
        (compare, ["--prompt", "a", "--out", ""], "--out: ''"),
        (pretrain, [], "required: --data"),
        (bench, ["--pairs", 0], "--pairs: '0'"),
        (bench_tokenizer, ["--vocab-size", 100], "--vocab-size: '100'"),
        (race, ["--data", "a", "--steps", 0], "--steps: '0'"),
        (race, ["--data", "a", "--out", ""], "--out: ''"),
        (bench, ["--out", "a\0b"], "--out: 'a\\x00b'"),
        (playground, ["--port", 99999], "--port 99999: must be at most 65535"),
        (playground, ["--port", -1], "--port: '-1'"),
    ],
)
def test_a_bad_flag_is_one_line(monkeypatch, capsys, module, flags, message):
    refuses(monkeypatch, capsys, message, module, *flags)


def test_the_tokenizer_s_benchmark_names_a_file_that_it_cannot_read(monkeypatch, capsys, tmp_path):
    (tmp_path / "latin.txt").write_bytes("café".encode("latin-1"))
    (tmp_path / "empty.txt").touch()
    for name, message in (("none", "no such file"), ("latin", "not UTF-8"), ("empty", "the file is empty")):
        path = tmp_path / f"{name}.txt"
        refuses(monkeypatch, capsys, message, bench_tokenizer, "--data", path)
        refuses(monkeypatch, capsys, str(path), bench_tokenizer, "--data", path)


def test_the_number_of_processes_is_a_number(monkeypatch, capsys, tmp_path):
    for count in ("abc", "0", "-1"):
        monkeypatch.setenv("WORLD_SIZE", count)
        refuses(
            monkeypatch,
            capsys,
            f"WORLD_SIZE is {count!r}",
            finetune,
            "--data",
            tmp_path / "d.jsonl",
            "--out",
            tmp_path / "o",
        )


def test_several_files_in_data_and_a_file_with_a_space_in_its_name(tmp_path, monkeypatch):
    for name in ("a.txt", "b.txt", "my book.txt"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    assert pretrain.patterns_in("a.txt b.*") == ["a.txt", "b.*"]
    assert pretrain.patterns_in("my book.txt") == ["my book.txt"]
    assert pretrain.patterns_in("not here.txt") == ["not here.txt"]


def run_command(*arguments, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE, timeout=120, **options)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "utf-8:strict"])
def test_any_output_encoding_will_do(model_directory, encoding):
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    flags = ["--model", model_directory, "--question", "é ⟶ 🙂", "--max-new-tokens", 3]
    done = run_command("scripts.ask", *flags, stdout=subprocess.PIPE, env=environment)
    assert done.returncode == 0 and not done.stderr


@pytest.mark.slow
def test_closed_and_full_streams_end_a_command_quietly(model_directory):
    shell = f"{sys.executable} -m scripts.tokens --text 'a b' --model '{model_directory}'"
    talk = f"{sys.executable} -m scripts.chat --model '{model_directory}' --max-new-tokens 3"
    buffered = os.environ | {"PYTHONUNBUFFERED": ""}  # what is left in a buffer is met at the interpreter's end
    for command, lines in [
        (f"{shell} >&-", 0),
        (f"{shell} > /dev/full", 1),
        (f"{shell} <&-", 0),
        (f"{sys.executable} -m scripts.toyworld --people 4 --out '{model_directory.parent}/world' > /dev/full", 1),
        (f"{talk} <&- >&-", 0),
        (f"yes Who? | {talk} | true", 0),
        (f"yes Who? | {talk} > /dev/full", 1),
    ]:
        done = subprocess.run(["sh", "-c", command], cwd=ROOT, capture_output=True, timeout=120, env=buffered)
        said = [line for line in done.stderr.decode().splitlines() if "yes:" not in line]
        assert len(said) == lines, (command, said)


def test_nothing_of_a_text_commands_the_terminal(monkeypatch, capsys, tmp_path, model_directory, demonstrations, tok):
    monkeypatch.setattr(type(tok), "decode_stream", lambda self, ids: [self.decode(ids)])
    monkeypatch.setattr(type(tok), "decode", lambda self, ids: HOSTILE if list(ids) else "")
    typed = iter(["Who?", "/compare " + HOSTILE, "/" + HOSTILE, ""])
    monkeypatch.setattr("builtins.input", lambda _: next(typed))
    small = ["--model", model_directory]
    assert call(monkeypatch, tokens, "--text", HOSTILE, *small) == 0
    assert call(monkeypatch, generate, "--prompt", HOSTILE, *small, "--max-new-tokens", 3) == 0
    assert call(monkeypatch, ask, "--question", HOSTILE, *small, "--max-new-tokens", 3) == 0
    assert call(monkeypatch, chat, *small, "--base", model_directory, "--max-new-tokens", 3) == 0
    assert call(monkeypatch, show_sft, "--data", demonstrations, *small) == 0
    looks = ["--runs", 2, "--max-new-tokens", 4, "--out", tmp_path / "compare"]
    assert call(monkeypatch, compare, "--prompt", HOSTILE, *small, *looks) == 0  # matplotlib reads $$ as mathematics
    assert call(monkeypatch, generate, "--prompt", "a", "--model", tmp_path / HOSTILE) == 2
    tuning = ["--base", model_directory, "--out", tmp_path / f"$tuned$ {HOSTILE.replace('/', '')}", "--steps", 1]
    assert call(monkeypatch, finetune, "--data", demonstrations, *tuning) == 0
    odd = demonstrations.rename(
        tmp_path / f"{HOSTILE}.jsonl"
    )  # the names of a file and of its columns, and empty answers
    rows = [{"prompt": f"Say {number}", "response": "", HOSTILE: 1} for number in range(12)]
    odd.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert call(monkeypatch, finetune, "--data", odd, *tuning, "--overwrite") == 0
    assert call(monkeypatch, show_sft, "--data", odd, *small) == 0
    (tmp_path / "text.txt").write_text(" ".join(TEXTS) * 60)
    run_here = ["--data", tmp_path / "text.txt", *SMALL, "--out", tmp_path / f"base {HOSTILE}"]
    assert call(monkeypatch, pretrain, *run_here) == 0
    said = capsys.readouterr()
    page = (tmp_path / "compare" / "compare.html").read_text()
    for code in ("\x1b]", "\x1b[2J", "\x07", "\u202e"):
        assert code not in said.out + said.err + page
    assert terminal.visible("\x1b[2J\r\x85") == "␛[2J␍‹85›"
    assert not list(tmp_path.rglob(".*"))


def test_bytes_of_a_character_are_shown_by_their_numbers(monkeypatch, capsys, model_directory):
    assert call(monkeypatch, tokens, "--text", "\U0001f9ff", "--model", model_directory) == 0
    assert "‹" in capsys.readouterr().out
    piece = type("Tok", (), {"token_bytes": lambda self, _: b"\xf0\x9f"})()
    assert terminal.piece_of(piece, 0) == "‹F0›‹9F›"


def test_tokens_of_any_model_and_of_gpt2_are_shown_and_a_pipe_is_not_read(
    monkeypatch, capsys, tmp_path, model_directory, tok
):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(model_directory, "runs/demo/base")
    for name in (str(model_directory), "base", "gpt2"):
        if name == "gpt2":
            monkeypatch.setattr(type(tok), "gpt2", classmethod(lambda cls: tok))
        assert call(monkeypatch, tokens, "--text", "Ada", "--model", name) == 0
        assert f"a vocabulary of {tok.vocab_size}, that of {name}" in capsys.readouterr().out
    (model_directory / "tokenizer.json").unlink()
    need(os, "mkfifo")(model_directory / "tokenizer.json")
    refuses(monkeypatch, capsys, "must be a file", tokens, "--text", "Ada", "--model", model_directory)


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_comparison_shows_how_far_it_is(monkeypatch, capsys, tmp_path, model_directory):
    looks = ["--prompt", "a", "--model", model_directory, "--runs", 2, "--max-new-tokens", 3]
    for screen, shown in ((Screen(), True), (io.StringIO(), False)):
        monkeypatch.setattr(sys, "stderr", screen)
        assert call(monkeypatch, compare, *looks, "--out", tmp_path / str(shown)) == 0
        assert ("continue:" in screen.getvalue()) == shown


def test_an_error_line_is_short(monkeypatch, capsys):
    refuses(monkeypatch, capsys, "…", generate, "--prompt", "a", "--strategy", "x" * 9999)
    call(monkeypatch, generate, "--prompt", "a", "--strategy", "x" * 9999)
    assert len(capsys.readouterr().err) < 500


def test_files_are_read_and_written_as_utf_8():
    folders = ("minigpt", "decoding", "sft", "scripts")
    for path in [path for folder in folders for path in (ROOT / folder).rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and re.search(r"(^|\.)(open|read_text|write_text)$", ast.unparse(node.func)):
                says = ast.unparse(node)
                if not re.match(r"(os|self|session|webbrowser|writing)\.open|write_text\(|read_text\(|safe_open", says):
                    assert re.search(r"utf-8|'[rwa]\+?b'|a\+b", says), f"{path}:{node.lineno}: {says}"


def test_two_runs_in_one_directory_are_refused(monkeypatch, capsys, tmp_path, model_directory, demonstrations):
    (tmp_path / "text.txt").write_text(" ".join(TEXTS) * 60)
    holder = f"""
from pathlib import Path
from scripts.support.run_directory import locked
with locked(Path({str(tmp_path / "replay")!r})):
    print("locked", flush=True)
    input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", holder], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline() == b"locked\n"
        text, model = ["--data", tmp_path / "text.txt"], ["--model", model_directory, "--max-new-tokens", 1]
        for module, flags in (
            (pretrain, text),
            (finetune, ["--data", demonstrations, "--base", model_directory]),
            (compare, ["--prompt", "a", "--runs", 2, *model]),
            *((module, []) for module in (demo, twin, bench, scale)),
            (race, text),
        ):
            refuses(monkeypatch, capsys, "another run writes here", module, *flags, "--out", tmp_path / "replay")
        refuses(monkeypatch, capsys, "another run writes", book, "--out", tmp_path / "replay" / "book")
        refuses(
            monkeypatch, capsys, "another run writes", experiments, "replay", "--world", tmp_path, "--out", tmp_path
        )
        other.kill()
    with locked(tmp_path / "replay"):  # the lock ended with its process
        assert (tmp_path / "replay" / ".lock").exists()
    with locked(tmp_path / "a" / "b"):
        pass
    assert not (tmp_path / "a").exists()  # nothing came of it


@pytest.mark.parametrize("name", ["log.jsonl", "results.json", "tokenizer.json", "train.npy"])
def test_a_file_in_a_directory_without_a_model_is_not_written_over(
    monkeypatch, capsys, tmp_path, model_directory, demonstrations, name
):
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text("mine")
    refuses(
        monkeypatch,
        capsys,
        f"holds {name} already",
        finetune,
        "--data",
        demonstrations,
        "--base",
        model_directory,
        "--out",
        out,
    )
    (tmp_path / "text.txt").write_text(" ".join(TEXTS) * 60)
    refuses(monkeypatch, capsys, f"holds {name} already", pretrain, "--data", tmp_path / "text.txt", "--out", out)
    assert (out / name).read_text() == "mine" and len(list(out.iterdir())) == 1


def test_commands_that_write_anew_leave_the_work_of_others_alone(monkeypatch, capsys, tmp_path, model_directory):
    (tmp_path / "base").mkdir()
    (tmp_path / "results.json").write_text("mine")
    refuses(monkeypatch, capsys, "made by something else", demo, "--quick", "--out", tmp_path)
    refuses(monkeypatch, capsys, "made by something else", twin, "--steps", 1, "--out", tmp_path)
    assert (tmp_path / "results.json").read_text() == "mine"


def test_what_a_kill_leaves_before_the_first_file_is_whole_is_no_obstacle(monkeypatch, capsys, tmp_path):
    for module, room, hidden in ((demo, "world", ".documents.txt.7"), (twin, "torch", ".train.npy.partial")):
        (tmp_path / room).mkdir()
        (tmp_path / room / hidden).touch()
        with locked(tmp_path):  # it comes as far as this
            refuses(monkeypatch, capsys, "another run writes here", module, "--out", tmp_path)
        (tmp_path / room / "mine.txt").touch()
        refuses(monkeypatch, capsys, "made by something else", module, "--out", tmp_path)
        shutil.rmtree(tmp_path / room)


def test_a_log_that_is_a_link_is_not_followed(tmp_path):
    (tmp_path / "other").write_text("mine")
    (tmp_path / "log.jsonl").symlink_to(tmp_path / "other")
    with pytest.raises(ValueError, match="is a link"):
        LossLog(tmp_path)
    assert (tmp_path / "other").read_text() == "mine"


def test_a_disk_that_is_too_full_for_a_line_of_the_log_is_told_with_its_name(tmp_path):
    log = LossLog(tmp_path)
    log.path.unlink()
    log.path.symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"No space left on device: '.*/log\.jsonl'"):
        log.add(Step(1, 1.0, 1.0, 1.0, 1, 1.0))


def test_a_run_goes_on_without_its_log_and_beside_a_copy_of_a_save(monkeypatch, capsys, tmp_path):
    (tmp_path / "text.txt").write_text(" ".join(TEXTS) * 60)
    flags = ["--data", tmp_path / "text.txt", "--out", tmp_path / "run", *SMALL, "--save-every", 1]
    assert call(monkeypatch, pretrain, *flags) == 0
    saves = tmp_path / "run" / "checkpoints"
    shutil.copytree(saves / "step-2", saves / "step-10.bak")
    assert [path.name for path in checkpoints(tmp_path / "run")] == ["step-2", "step-3"]
    (tmp_path / "run" / "log.jsonl").unlink()
    (tmp_path / "run" / "config.json").unlink()
    refuses(monkeypatch, capsys, "RESUME=1", generate, "--prompt", "a", "--model", tmp_path / "run")
    assert call(monkeypatch, pretrain, *flags, "--resume", 2) == 0
    assert [json.loads(line)["step"] for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()] == [3]
    (tmp_path / "run" / "log.jsonl").unlink()
    assert call(monkeypatch, pretrain, *flags, "--resume") == 2  # no step is left
    assert "log.jsonl: holds no row" in capsys.readouterr().err and load(tmp_path / "run")


ROW = {"step": 1, "loss": 5.0, "lr": 0.1, "grad_norm": 1.0, "tokens": 9, "seconds": 0.1, "val_loss": 5.0}
DAMAGED = [
    "",
    "[1]",
    "\0\0",
    "[" * 100_000,
    '{"step": 1}',
    *(json.dumps(ROW | {name: wrong}) for name, wrong in (("step", "1"), ("step", None), ("step", True))),
    *(json.dumps(ROW | {name: wrong}) for name, wrong in (("loss", "5"), ("seconds", 0.0), ("val_loss", "5"))),
    json.dumps({name: value for name, value in ROW.items() if name != "tokens"}),
]


@pytest.mark.parametrize("line", DAMAGED, ids=lambda line: line[:60])
def test_a_damaged_line_of_a_log_is_left_out_and_the_run_goes_on(tmp_path, line):
    from scripts.support.pretraining import summary

    whole = json.dumps(ROW | {"step": 2})
    (tmp_path / "log.jsonl").write_text(f"{line}\n{whole}\n")
    log = LossLog(tmp_path, done=3)
    assert (tmp_path / "log.jsonl").read_text() == f"{whole}\n"
    assert summary(log) == {"first_loss": 5.0, "val_loss": 5.0, "steps": 2, "tokens_per_second": 90}

    (tmp_path / "log.jsonl").write_text(json.dumps({name: ROW[name] for name in ROW if name != "val_loss"}))
    with pytest.raises(ValueError, match=r"log\.jsonl: the line of the last step is missing or damaged"):
        summary(LossLog(tmp_path, done=3))


@pytest.mark.parametrize("module", [pretrain, finetune])
def test_a_linked_folder_of_saves_is_let_go_and_what_it_links_to_stays(
    monkeypatch, tmp_path, model_directory, demonstrations, module
):
    (tmp_path / "text.txt").write_text(" ".join(TEXTS) * 60)
    base = ["--data", tmp_path / "text.txt", *SMALL, "--save-every", 1, "--out", tmp_path / "run"]
    assert call(monkeypatch, pretrain, *base) == 0
    saves = tmp_path / "run" / "checkpoints"
    before = sorted(path.name for path in saves.rename(tmp_path / "elsewhere").rglob("*"))
    saves.symlink_to(tmp_path / "elsewhere")
    written = []

    def watched(path: Path, *_) -> None:  # what a kill would leave: never a model's config beside another's files
        written.append(path)
        here = path.parent == tmp_path / "run" and path.name != "log.jsonl"
        assert not (here and (tmp_path / "run" / "config.json").exists())

    for module_that_writes, name in (
        (directory, "write_tensors"),
        (directory, "write_text"),
        (pretraining, "write_text"),
    ):
        write = getattr(module_that_writes, name)
        monkeypatch.setattr(module_that_writes, name, lambda *a, write=write: (watched(*a), write(*a)))
    tuning = ["--data", demonstrations, "--base", model_directory, "--out", tmp_path / "run", "--steps", 1]
    assert call(monkeypatch, module, *(base if module is pretrain else tuning), "--overwrite") == 0
    assert sorted(path.name for path in (tmp_path / "elsewhere").rglob("*")) == before
    assert not saves.is_symlink() and load(tmp_path / "run") and len(written) > 1


@pytest.mark.parametrize("content", ["mine", "{}", '{"sft": 1}', None])
def test_results_that_another_command_made_are_not_written_over(monkeypatch, capsys, tmp_path, content):
    (tmp_path / "replay").mkdir()
    for path in (tmp_path / "results.json", tmp_path / "replay" / "results.json"):
        path.write_text(content) if content else path.mkdir()
    (tmp_path / "text.txt").write_text(" ".join(TEXTS) * 60)
    here = ["--out", tmp_path]
    refuses(monkeypatch, capsys, "results.json", scale, *here)
    refuses(monkeypatch, capsys, "results.json", bench, *here)
    refuses(monkeypatch, capsys, "results.json", race, "--data", tmp_path / "text.txt", *here)
    refuses(monkeypatch, capsys, "results.json", experiments, "replay", "--world", tmp_path, *here)
    assert not content or (tmp_path / "results.json").read_text() == content


@pytest.mark.parametrize("other_shape", [False, True])
def test_a_kill_while_a_model_is_written_over_leaves_the_old_one_or_none(
    tmp_path, model_directory, demonstrations, tok, other_shape
):
    from minigpt import Tokenizer

    other = Tokenizer.train(["Another text with other words in it"], vocab_size=tok.vocab_size)
    old = tiny(torch.float32, 1, vocab_size=other.vocab_size, d_model=32 if other_shape else 16)
    run, number = tmp_path / "run", 0
    whole = []
    while True:
        shutil.rmtree(run, ignore_errors=True)
        save(run, old, other)
        number += 1
        if not killed_at(number, save_anew, run, tiny(torch.float32, vocab_size=tok.vocab_size), tok):
            break
        if (run / "config.json").exists():
            model, vocabulary = load(run)
            is_old = torch.equal(model.token_embedding.weight, old.token_embedding.weight)
            assert is_old == (vocabulary.tokens == other.tokens), number
            whole.append(is_old)
        else:
            with pytest.raises(FileNotFoundError, match=r"config\.json is missing"):
                load(run)
    assert number > 5 and True in whole


def test_a_full_disk_leaves_the_model_that_is_written_over(monkeypatch, model_directory, tok):
    before = {path: path.read_bytes() for path in model_directory.iterdir()}
    for writer in ("write_tensors", "write_text", "write_json"):
        with monkeypatch.context() as full:
            full.setattr(directory, writer, mock.Mock(side_effect=OSError(28, "No space left on device")))
            with pytest.raises(OSError, match="No space left"):
                save_anew(model_directory, tiny(torch.float32, 1, vocab_size=tok.vocab_size), tok)
        assert {path: path.read_bytes() for path in model_directory.iterdir()} == before
    (model_directory / "chat_template.jinja").write_text("an older model's")
    save_anew(model_directory, tiny(torch.float32, 1, vocab_size=tok.vocab_size), tok)
    assert {path.name for path in model_directory.iterdir()} == {path.name for path in before}
    assert load(model_directory)[0].context_length == 16


def test_results_are_kept_before_they_are_shown(monkeypatch, capsys, tmp_path, model_directory, demonstrations):
    (tmp_path / "text.txt").write_text(" ".join(TEXTS) * 60)
    base, tuned, looked = (tmp_path / name for name in ("base", "tuned", "looked"))
    training = ["--data", tmp_path / "text.txt", *SMALL]
    tuning = ["--data", demonstrations, "--base", model_directory, "--steps", 1]
    looks = ["--prompt", "a ⟶ 🙂", "--model", model_directory, "--runs", 2, "--max-new-tokens", 4]
    for module, flags, out, reader in (
        (pretrain, training, base, LeavesAt(base / "config.json")),  # when the model is there
        (finetune, tuning, tuned, LeavesAt(tuned / "config.json")),
        (compare, looks, looked, LeavesAt(model_directory)),  # at once
    ):
        monkeypatch.setattr(sys, "stdout", reader)
        assert call(monkeypatch, module, *flags, "--out", out) == 141
    assert json.loads((base / "results.json").read_text(encoding="utf-8"))["steps"] == 3
    assert json.loads((tuned / "results.json").read_text(encoding="utf-8"))["asked"] >= 0
    assert json.loads((looked / "trace.json").read_text(encoding="utf-8"))["prompt"] == "a ⟶ 🙂"
    assert (looked / "compare.html").stat().st_size and not capsys.readouterr().err.startswith("error")


def test_tables_of_figures_are_kept_before_they_are_shown(monkeypatch, tmp_path):
    monkeypatch.setattr(twin, "SHAPE", dict(context_length=32, n_layers=1, n_heads=2, d_model=16, d_ff=16))
    few = toyworld.build(0, people=4, biographies=2)
    monkeypatch.setattr(toyworld, "build", lambda seed: few)
    keeps_before_it_shows(monkeypatch, twin, tmp_path / "twin/results.json")
    assert call(monkeypatch, twin, "--steps", 2, "--out", tmp_path / "twin") == 0
    assert json.loads((tmp_path / "twin/results.json").read_text())["apart"] < 1e-3
    assert (tmp_path / "twin/loss.png").stat().st_size

    monkeypatch.setattr(scale, "started", lambda *_: dict.fromkeys([*scale.PARTS, "seconds"], 1.0))
    keeps_before_it_shows(monkeypatch, scale, tmp_path / "scale/results.json")
    assert call(monkeypatch, scale, "--out", tmp_path / "scale") == 0

    row = {"what": "w", "peer_name": "p", "ours": 1.0, "peer": 1.0, "ratio": 1.0}
    monkeypatch.setattr(bench, "models", lambda large: [])
    monkeypatch.setattr(bench, "read_bandwidth", lambda: 1e9)
    monkeypatch.setattr(bench, "tokenizer_rows", lambda text, pairs: [row])
    keeps_before_it_shows(monkeypatch, bench, tmp_path / "bench/results.json")
    assert call(monkeypatch, bench, "--out", tmp_path / "bench") == 0
    assert json.loads((tmp_path / "bench/results.json").read_text())["merges"] == [row]


@pytest.mark.parametrize("content", ["", "[1]", "{", '{"sft": 1, "decoding": 2}', "\x00"])
def test_broken_results_are_named(monkeypatch, capsys, tmp_path, content):
    (tmp_path / "results.json").write_text(content)
    status = call(monkeypatch, claims, "--results", tmp_path / "results.json")
    said = capsys.readouterr()
    assert (status == 2 and "results.json" in said.err) or (status == 1 and "lacks a figure" in said.out)
    assert said.err.count("\n") <= 1


@pytest.mark.parametrize("content", ["", "[1]\n", "{\n", '{"question": "a"}\n'])
def test_broken_questions_are_named(tmp_path, content):
    from scripts.support.measuring.answers import read_questions

    (tmp_path / "questions.jsonl").write_text(content)
    with pytest.raises(ValueError, match=r"questions\.jsonl"):
        read_questions(tmp_path / "questions.jsonl")


def test_a_short_name_has_one_meaning(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert models.model_directory("base") == Path("runs/demo/base")
    (tmp_path / "base").mkdir()
    assert models.model_directory("base") == Path("runs/demo/base")
    (tmp_path / "base" / "config.json").touch()
    with pytest.raises(ValueError, match=r"\./base"):
        models.model_directory("base")
    assert models.model_directory("./base") == Path("base")


@pytest.mark.parametrize("name", ["base", "sft"])
def test_the_short_names_work_in_a_checkout(monkeypatch, name):
    monkeypatch.chdir(ROOT)  # the package sft lies here
    assert models.model_directory(name) == Path("runs/demo") / name


def test_compare_in_the_chat_needs_a_known_base(monkeypatch, capsys, model_directory):
    lines = iter(["/compare Who?", ""])
    monkeypatch.setattr("builtins.input", lambda _: next(lines))
    assert call(monkeypatch, chat, "--model", model_directory) == 0
    assert "what this model was made from isn't known" in capsys.readouterr().err


def test_an_answer_without_text_says_so(monkeypatch, capsys, model_directory, tok):
    monkeypatch.setattr(type(tok), "decode", lambda self, ids: "")
    assert call(monkeypatch, ask, "--question", "Who?", "--model", model_directory, "--max-new-tokens", 2) == 0
    assert capsys.readouterr().out.count("(ends at once)") == 2


def test_fine_tuning_ends_with_the_command_that_talks_to_the_model(
    monkeypatch, capsys, tmp_path, model_directory, demonstrations
):
    flags = ["--data", demonstrations, "--base", model_directory, "--out", tmp_path / "my run", "--steps", 1]
    assert call(monkeypatch, finetune, *flags) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith(f"make chat MODEL='{tmp_path}/my run'")


def test_the_chat_has_line_editing():
    code = "import builtins, sys; builtins.input = lambda _: ''; import scripts.chat as chat; chat.converse(None); "
    code += "print('readline' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=ROOT) == b"True\n"
