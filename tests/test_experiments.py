"""The lecture's questions as experiments: one setting changes, and the figures say what it does."""

import json

import pytest
from conftest import tiny
from helpers import call, keeps_before_it_shows

from minigpt import Tokenizer, save, write_tokens
from scripts import experiments, pretrain, toyworld
from scripts.support.trial import unlearn
from sft.data import Rows

VALUES = {
    "demonstrations": [5, 20],
    "replay": [0.0, 0.2],
    "size": ["1 × 32", "1 × 64"],
}  # fewer, so that it takes seconds


@pytest.fixture
def town(tmp_path, monkeypatch):
    """A small town and an untrained base model beside its text; returns what runs an experiment on them."""
    world = toyworld.build(0, people=8, biographies=4)
    toyworld.write(tmp_path / "world", world)
    tok = Tokenizer.train(world.documents, 400)
    save(tmp_path / "base", tiny(vocab_size=tok.vocab_size, context_length=96).float(), tok)
    for name, texts in (("train", world.documents[:-5]), ("val", world.documents[-5:])):
        write_tokens(tmp_path / f"base/{name}.npy", map(tok.encode, texts), tok.end_id, tok.vocab_size)
    monkeypatch.setattr(pretrain, "SCHEDULE", pretrain.SCHEDULE | {"steps": 2})
    for name, values in VALUES.items():
        monkeypatch.setitem(experiments.EXPERIMENTS, name, experiments.EXPERIMENTS[name]._replace(values=values))

    def start(*names: str) -> int:
        flags = ["--base", tmp_path / "base", "--world", tmp_path / "world", "--out", tmp_path / "out", "--steps", 2]
        return call(monkeypatch, experiments, *names, *flags)

    return start


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        pytest.param("demonstrations", marks=pytest.mark.claim("S4")),
        pytest.param("loss", marks=pytest.mark.claim("S5")),
        pytest.param("end", marks=pytest.mark.claim("S3")),
        pytest.param("replay", marks=pytest.mark.claim("S5")),
        pytest.param("size", marks=pytest.mark.claim("P6")),
    ],
)
def test_an_experiment_gives_a_row_a_value_and_a_picture(town, monkeypatch, tmp_path, capsys, name):
    keeps_before_it_shows(monkeypatch, experiments, tmp_path / f"out/{name}/results.json")
    assert town(name) == 0
    experiment = experiments.EXPERIMENTS[name]
    rows = json.loads((tmp_path / f"out/{name}/results.json").read_text())["rows"]
    assert [row[experiment.setting] for row in rows] == experiment.values
    assert all(0 <= row[share] <= 1 for row in rows for share in experiment.shares)
    assert rows[0]["text_loss"] != rows[1]["text_loss"]  # the setting reaches the training
    said = capsys.readouterr().out
    assert experiment.question in said and f"{name}.png" in said
    assert (tmp_path / f"out/{name}/{name}.png").stat().st_size > 5_000

    # the conclusion is of these very figures
    shares = {f"{row[share]:.0%}" for row in (rows[0], rows[-1]) for share in experiment.shares}
    conclusion = said[: said.rindex("picture:")].strip().splitlines()[-2:]
    assert len([share for share in shares if any(share in line for line in conclusion)]) > 0
    assert "{" not in "".join(conclusion) and conclusion[-1].endswith(".")


def test_without_the_end_token_all_else_is_still_learnt():
    rows = Rows([[1, 2, 9], [3, 4, 5]], [[False, True, True], [False, False, True]], 0, 0)
    unlearn(rows, 9)
    assert rows.learn == [[False, True, False], [False, False, True]]


@pytest.mark.slow
@pytest.mark.claim("P6")
def test_a_base_model_of_another_size_is_pretrained_once_on_the_same_text(town, tmp_path):
    assert town("size") == 0
    made = tmp_path / "out/size/1×32"
    config, when = json.loads((made / "config.json").read_text()), (made / "model.safetensors").stat().st_mtime_ns
    assert (config["num_hidden_layers"], config["hidden_size"]) == (1, 32)
    for name in ("train", "val"):
        assert (made / f"{name}.npy").read_bytes() == (tmp_path / f"base/{name}.npy").read_bytes()
    assert town("size") == 0
    assert (made / "model.safetensors").stat().st_mtime_ns == when


def test_an_unknown_experiment_and_a_missing_town_are_named(town, tmp_path, capsys, monkeypatch):
    assert town("speed") == 2
    assert "'speed': must be one of demonstrations, loss" in capsys.readouterr().err
    assert call(monkeypatch, experiments, "--world", tmp_path / "none") == 2
    assert "run `make demo` first" in capsys.readouterr().err
