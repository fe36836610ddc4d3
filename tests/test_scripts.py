"""The command lines: a user's mistake is one clear line and exit status 2, and nothing is written over."""

import io
import json
import math

import pytest
import tqdm
from conftest import TEXTS, tiny
from helpers import call, refuses

from minigpt import save
from minigpt.loop import Step
from scripts import ask, chat, compare, demo, finetune, generate, pretrain, tokens
from scripts.lab import claims
from scripts.support import strategies, terminal
from scripts.support.plots import ratios_figure


@pytest.fixture
def model_directory(tmp_path, tok):
    save(tmp_path / "model", tiny(vocab_size=tok.vocab_size, context_length=32), tok)
    return tmp_path / "model"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"", "the file is empty"),
        (b" \n<|endoftext|>\n", "the file is empty"),
        (b"\xff\xfe", "not UTF-8"),
        (b"short", "fewer than one context of 128"),
    ],
)
def test_pretraining_refuses_a_text_it_cannot_learn_from(monkeypatch, capsys, tmp_path, content, message):
    if content is not None:
        (tmp_path / "text.txt").write_bytes(content)
    out = tmp_path / "run"
    refuses(monkeypatch, capsys, message, pretrain, "--data", tmp_path / "text.txt", "--out", out)
    assert not out.exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [(["--n-heads", 3], "n_heads=3"), (["--steps", 0], "steps=0"), (["--vocab-size", 99], "vocab_size=99")],
)
def test_pretraining_refuses_numbers_that_do_not_fit(monkeypatch, capsys, tmp_path, flags, message):
    (tmp_path / "text.txt").write_text(TEXTS[0] * 100)
    arguments = ["--data", tmp_path / "text.txt", "--out", tmp_path / "run", *flags]
    refuses(monkeypatch, capsys, message, pretrain, *arguments)
    assert not (tmp_path / "run").exists()


def test_a_model_is_not_written_over(monkeypatch, capsys, tmp_path, model_directory):
    before = (model_directory / "model.safetensors").read_bytes()
    (tmp_path / "data.jsonl").write_text('{"prompt": "a", "response": "b"}\n')
    (tmp_path / "text.txt").write_text("Ada lives in Oslo. " * 9)
    for module, data in ((pretrain, "text.txt"), (finetune, "data.jsonl")):
        refuses(monkeypatch, capsys, "holds a model", module, "--data", tmp_path / data, "--out", model_directory)
    assert (model_directory / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("line", "message"), [('{"prompt": oops}', "data.jsonl:2: not JSON"), ('{"prompt": "a"}', "data.jsonl:2: the key")]
)
def test_fine_tuning_names_file_and_line(monkeypatch, capsys, tmp_path, model_directory, line, message):
    (tmp_path / "data.jsonl").write_text('{"prompt": "a", "response": "b"}\n' + line)
    arguments = ["--data", tmp_path / "data.jsonl", "--base", model_directory, "--out", tmp_path / "out"]
    refuses(monkeypatch, capsys, message, finetune, *arguments)
    assert not (tmp_path / "out").exists()


def test_fine_tuning_in_several_processes_is_refused(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    message = "torchrun started 2 processes: fine-tuning runs in one"
    refuses(monkeypatch, capsys, message, finetune, "--data", tmp_path / "data.jsonl", "--out", tmp_path / "out")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--prompt", "Ada " * 99], "window"),
        (["--prompt", "Ada", "--strategy", "best"], "'best' is not one of greedy, beam"),
        (["--prompt", "Ada", "--top-p", 2], "top_p is 2.0"),
        (["--prompt", "Ada", "--temperature", -1], "temperature is -1.0"),
    ],
)
def test_generating_refuses_what_makes_no_sense(monkeypatch, capsys, model_directory, flags, message):
    refuses(monkeypatch, capsys, message, generate, "--model", model_directory, *flags)


@pytest.mark.parametrize("module", [ask, generate, compare, chat])
def test_half_a_model_directory_is_named(monkeypatch, capsys, model_directory, module):
    (model_directory / "model.safetensors").unlink()
    flags = {ask: ["--question", "Who?"], chat: []}.get(module, ["--prompt", "Ada"])
    refuses(monkeypatch, capsys, "model.safetensors is missing", module, "--model", model_directory, *flags)


def test_a_user_s_own_text_and_demonstrations_take_the_same_road(monkeypatch, capsys, tmp_path):
    (tmp_path / "text.txt").write_text(" ".join(TEXTS) * 60)
    (tmp_path / "data.json").write_text(json.dumps([{"instruction": f"Say {i}", "output": str(i)} for i in range(20)]))
    base, tuned = tmp_path / "base", tmp_path / "tuned"
    small = ["--steps", 3, "--context-length", 48, "--d-model", 32, "--d-ff", 32, "--vocab-size", 300]
    assert call(monkeypatch, pretrain, "--data", tmp_path / "*.txt", "--out", base, *small) == 0
    assert len((base / "log.jsonl").read_text().splitlines()) == 3
    arguments = ["--data", tmp_path / "data.json", "--base", base, "--out", tuned, "--steps", 2]
    assert call(monkeypatch, finetune, *arguments, "--corpus", tmp_path / "text.txt") == 0
    assert "loss on the base model's text" in capsys.readouterr().out
    assert call(monkeypatch, ask, "--question", "Who?", "--model", tuned) == 0
    assert call(monkeypatch, generate, "--prompt", "Ada", "--model", base, "--strategy", "beam") == 0
    assert call(monkeypatch, generate, "--prompt", "Ada", "--model", base, "--task", "code-generation") == 0
    twin = [*small, "--steps", 3, "--backend", "numpy"]
    assert call(monkeypatch, pretrain, "--data", tmp_path / "*.txt", "--out", tmp_path / "twin", *twin) == 0
    capsys.readouterr()
    greedy = ["--prompt", "Ada", "--model", tmp_path / "twin", "--strategy", "greedy"]
    texts = []
    for backend in ("numpy", "torch"):
        assert call(monkeypatch, generate, *greedy, "--backend", backend) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]
    assert call(monkeypatch, tokens, "--text", "Ada lives", "--model", base) == 0


@pytest.mark.claim("G11")
@pytest.mark.claim("G3")
def test_the_same_seed_writes_the_same_text_and_another_seed_another(monkeypatch, capsys, model_directory):
    def text(*flags) -> str:
        assert call(monkeypatch, generate, "--prompt", "Ada", "--model", model_directory, *flags) == 0
        return capsys.readouterr().out

    assert text("--seed", 1) == text("--seed", 1) != text("--seed", 2)
    assert text("--strategy", "greedy") == text("--strategy", "greedy")


@pytest.mark.claim("G10")
def test_settings_by_task_are_measured_on_the_prompt(monkeypatch, capsys, tmp_path, model_directory):
    arguments = ["--prompt", "Ada", "--model", model_directory, "--runs", 2, "--max-new-tokens", 8, "--out", tmp_path]
    assert call(monkeypatch, compare, *arguments) == 0
    trace = json.loads((tmp_path / "trace.json").read_text())
    assert [row["task"] for row in trace["tasks"]] == list(strategies.TASKS)
    careful, creative = trace["tasks"][0], trace["tasks"][1]
    assert careful["kept"] <= creative["kept"] and careful["entropy"] <= creative["entropy"]
    rows = {row["strategy"]: row for row in trace["continuations"]}
    assert list(rows) == list(strategies.STRATEGIES)
    assert len({row["seed"] for row in rows.values()}) == len(rows)
    assert (tmp_path / "compare.html").stat().st_size > 10_000


@pytest.mark.claim("S1")
@pytest.mark.claim("S2")
@pytest.mark.claim("S6")
@pytest.mark.claim("P5")
def test_perplexity_stands_beside_the_loss_on_a_progress_bar_and_among_the_claims(monkeypatch):
    shown = []

    class Bar(tqdm.tqdm):
        def set_postfix(self, **figures):
            shown.append(figures["loss"])

    monkeypatch.setattr(tqdm, "tqdm", Bar)
    step = Step(step=1, loss=math.log(2), lr=0.1, grad_norm=1.0, tokens=8, seconds=1.0)
    assert list(terminal.show_progress([step], 1, "train")) == [step]
    assert shown == ["0.693 (perplexity 2.00)"]
    results = {"base": {"first_loss": math.log(50), "val_loss": math.log(2)}}
    assert claims.figure(claims.CLAIMS["P3"], results) == "loss 3.912 (perplexity 50.00) to 0.693 (perplexity 2.00)"


@pytest.mark.slow
def test_the_demo_tells_the_whole_story(monkeypatch, capsys, tmp_path):
    assert call(monkeypatch, demo, "--quick", "--out", tmp_path) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    stages = {"corpus", "tokenizer", "pretrain", "decode", "finetune", "ask", "smaller", "total"}
    assert set(results["seconds"]) == stages
    assert abs(results["base"]["first_loss"] - results["base"]["ln_vocab"]) < 0.1
    assert results["base"]["val_loss"] < 3
    assert {"n", "base_cloze", "base_exact", "base_exact_raw", "base_exact_3shot", "base_mentions"} < set(
        results["answers"]
    )
    report = (tmp_path / "report.html").read_text()
    assert "<svg" in report and 'class="token special learnt">&lt;|endoftext|&gt;' in report
    for shown in (
        "perplexity",
        "902,272 parameters",
        "99,520",
        " ★</text>",
        'class=" unlikely"',
        'class=" repeat"',
        " …</td>",
    ):
        assert shown in report, shown
    assert call(monkeypatch, claims, "--results", tmp_path / "results.json") == 0
    del results["tasks"]
    (tmp_path / "results.json").write_text(json.dumps(results))
    capsys.readouterr()
    assert call(monkeypatch, claims, "--results", tmp_path / "results.json") == 1
    assert "G10 lacks a figure" in capsys.readouterr().out


def test_every_statement_is_listed_and_every_mark_is_a_statement():
    marked = claims.tests_of_claims(claims.Path(__file__).parent)
    assert set(marked) <= set(claims.CLAIMS)
    numbers = [f"{letter}{i}" for letter, count in (("P", 6), ("G", 12), ("S", 7)) for i in range(1, count + 1)]
    assert list(claims.CLAIMS) == numbers


def test_every_statement_has_code_that_is_there_a_test_and_a_way_to_read_its_figure():
    marked = claims.tests_of_claims(claims.ROOT / "tests")
    lacks = {number: claims.lacking(claim, marked[number], None) for number, claim in claims.CLAIMS.items()}
    assert {number for number, what in lacks.items() if what} == set(claims.EXEMPT) == {"S7"}


def test_statements_are_told_without_a_demo_and_fail_without_tests(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)  # no demo here
    assert call(monkeypatch, claims) == 0
    assert "figure    run make demo" in capsys.readouterr().out
    monkeypatch.setattr(claims, "tests_of_claims", lambda _: claims.defaultdict(list))
    assert call(monkeypatch, claims) == 1
    assert "G1 lacks a test" in capsys.readouterr().out.splitlines()
    refuses(monkeypatch, capsys, "results.json is missing", claims, "--results", tmp_path / "results.json")


@pytest.mark.parametrize(
    ("change", "lacks"),
    [
        ({"code": "minigpt/loop.py: train, trane"}, "code (minigpt/loop.py: train, trane is not there)"),
        ({"code": "minigpt/lop.py: train"}, "code (minigpt/lop.py: train is not there)"),
        ({"figure": None}, "a figure"),
        ({"by": "minigpt/loop.py: assess"}, "a measurement (minigpt/loop.py: assess is not there)"),
        ({"measured": ""}, "a description of its figure"),
    ],
)
def test_a_statement_without_code_or_figure_fails(monkeypatch, capsys, tmp_path, change, lacks):
    monkeypatch.chdir(tmp_path)  # no demo here
    monkeypatch.setitem(claims.CLAIMS, "P3", claims.CLAIMS["P3"]._replace(**change))
    assert call(monkeypatch, claims) == 1
    assert f"P3 lacks {lacks}" in capsys.readouterr().out.splitlines()


def test_the_scale_of_the_picture_of_ratios_is_plain_numbers():
    rows = [{"what": "a", "peer_name": "b", "ratio": ratio} for ratio in (0.4, 25.0)]
    picture = ratios_figure(rows, "title")
    picture.savefig(io.BytesIO())
    [axes] = picture.axes
    assert {"0.5", "1", "2", "10", "20"} <= {label.get_text() for label in axes.get_xticklabels(which="both")}
    assert not any("$" in label.get_text() for label in axes.get_xticklabels(which="both"))
