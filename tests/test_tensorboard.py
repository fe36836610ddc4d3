"""--tensorboard: the numbers of log.jsonl once more, as TensorBoard reads them, and nothing leaves this machine."""

import json
import socket
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from conftest import TEXTS, tiny
from helpers import call, refuses
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from minigpt import save
from scripts import finetune, pretrain
from scripts.support import stop_and_resume

SMALL = "--context-length 48 --n-layers 1 --d-model 32 --d-ff 32 --vocab-size 300 --batch-size 4 --device cpu"


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("something wants to leave this machine")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def flags(tmp_path) -> list:
    (tmp_path / "text.txt").write_text(" ".join(TEXTS) * 60)
    return [
        "--data",
        tmp_path / "text.txt",
        *SMALL.split(),
        "--precision",
        "fp32",
        "--save-every",
        2,
        "--out",
        tmp_path / "run",
    ]


def curves(run: Path) -> dict[str, list]:
    """Each curve's (step, value), as TensorBoard shows it."""
    events = EventAccumulator(str(run / "tensorboard"), {"scalars": 0}).Reload()
    return {name: [(each.step, each.value) for each in events.Scalars(name)] for name in events.Tags()["scalars"]}


def agree(run: Path) -> None:
    """The curves and the log hold the same numbers."""
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    found = curves(run)
    names = {name for row in rows for name in row} - {"step", "tokens", "seconds"}
    assert {"loss", "lr", "grad_norm"} <= names and found.keys() == names | {"tokens_per_second"}
    for name in names:
        logged = [(row["step"], row[name]) for row in rows if name in row]
        assert [step for step, _ in found[name]] == [step for step, _ in logged]
        assert [value for _, value in found[name]] == pytest.approx([value for _, value in logged], rel=1e-6)


def test_the_curves_of_pretraining_are_its_log(monkeypatch, tmp_path, flags):
    run = tmp_path / "run"
    assert call(monkeypatch, pretrain, *flags, "--steps", 6, "--tensorboard") == 0
    agree(run)
    assert len(curves(run)["val_loss"]) > 1

    # a resumed run's curves hold each step once
    assert call(monkeypatch, pretrain, *flags, "--steps", 6, "--tensorboard", "--resume", 4) == 0
    agree(run)

    # another run takes them away
    refuses_to_overwrite = call(monkeypatch, pretrain, *flags, "--steps", 3)
    assert refuses_to_overwrite == 2 and (run / "tensorboard").exists()
    assert call(monkeypatch, pretrain, *flags, "--steps", 3, "--overwrite") == 0
    assert not (run / "tensorboard").exists()


def test_the_curves_of_fine_tuning_are_its_log(monkeypatch, tmp_path, tok):
    save(tmp_path / "base", tiny(torch.float32, vocab_size=tok.vocab_size, context_length=64), tok)
    rows = [{"prompt": f"Say {number}", "response": "so " * number} for number in range(1, 12)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = ["--data", tmp_path / "data.jsonl", "--base", tmp_path / "base", "--out", tmp_path / "mine", "--steps", 4]
    assert call(monkeypatch, finetune, *flags, "--max-new-tokens", 2, "--tensorboard") == 0
    agree(tmp_path / "mine")


@pytest.mark.parametrize("module", [pretrain, finetune])
def test_where_it_is_not_installed_the_extra_is_named_before_any_work(monkeypatch, capsys, tmp_path, flags, module):
    monkeypatch.setattr(stop_and_resume, "find_spec", lambda name: None if name == "tensorboard" else find_spec(name))
    mine = flags if module is pretrain else ["--data", tmp_path / "text.txt", "--out", tmp_path / "run"]
    refuses(monkeypatch, capsys, 'pip install -c constraints.txt -e ".[tensorboard]"', module, *mine, "--tensorboard")
    assert not (tmp_path / "run").exists()
