"""The race: the same characters for both, a whole validation split, and results that say what was measured."""

import json

import numpy as np
import pytest
import torch
from helpers import call, keeps_before_it_shows, refuses

from minigpt import GPT, GPTConfig
from minigpt.formulas import cross_entropy
from scripts.lab import peer, race, racer
from scripts.support.measuring.text_loss import told

TEXT = "The cat sat on the mat; who sat where?\n" * 60


@pytest.fixture
def text(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    return tmp_path / "text.txt"


def test_characters_become_ids_in_two_parts(text):
    training, validation, vocab_size = racer.read_characters(text)
    characters = sorted(set(TEXT))
    assert "".join(characters[i] for i in [*training, *validation]) == TEXT
    assert vocab_size == len(characters) and len(training) == len(TEXT) * 9 // 10


def test_a_batch_is_a_function_of_seed_and_step_and_its_targets_are_the_next_characters(text):
    training, _, _ = racer.read_characters(text)
    batches = racer.crops(training, 5, 64, seed=3)
    assert torch.equal(batches(7).inputs, racer.crops(training, 5, 64, seed=3)(7).inputs)
    assert not torch.equal(batches(7).inputs, batches(8).inputs)
    assert not torch.equal(batches(7).inputs, racer.crops(training, 5, 64, seed=4)(7).inputs)
    windows = np.lib.stride_tricks.sliding_window_view(training, 64 + 1).tolist()
    for row, targets in zip(batches(0).inputs.tolist(), batches(0).targets.tolist()):
        assert [*row, targets[-1]] in windows and row[1:] == targets[:-1]


def model_of_the_race() -> GPT:
    torch.manual_seed(0)
    return racer.normalised(GPT(GPTConfig(vocab_size=9, context_length=32, **racer.SHAPE))).eval()


def test_the_racer_sees_neither_the_scale_of_queries_and_keys_nor_that_of_an_embedding():
    model, other, ids = model_of_the_race(), model_of_the_race(), torch.arange(9)[None]
    with torch.no_grad():
        for block in other.blocks:
            block.attention.query[0].weight *= 7
            block.attention.key[0].weight *= 7
        other.token_embedding[0].weight *= 7
    torch.testing.assert_close(model(ids), other(ids), rtol=1e-2, atol=1e-2)
    assert not torch.allclose(model(ids), GPT(model.config)(ids), rtol=1e-2, atol=1e-2)


def test_validation_counts_every_character_but_the_first_once():
    model = model_of_the_race()
    torch.nn.init.normal_(model.head.weight)  # so that each character's loss is another one
    ids = np.random.default_rng(0).integers(9, size=3 * 32 + 17)
    nats = 0.0
    for start in range(0, len(ids) - 1, 32):
        row = torch.tensor(ids[start : start + 32 + 1])[None]
        nats += cross_entropy(model(row[:, :-1]), row[:, 1:], reduction="sum").item()
    assert racer.validation_loss(model, ids) == pytest.approx(nats / (len(ids) - 1), rel=3e-3)


@pytest.mark.slow
def test_the_results_say_which_seed_reached_the_target_when(monkeypatch, capsys, tmp_path, text):
    monkeypatch.setattr(race, "MEASURED", 2)
    monkeypatch.setattr(race, "PEER_STEPS", 1)  # so the long run is a short one
    small = racer.SHAPE | dict(n_layers=1, d_model=16, d_ff=16)
    monkeypatch.setattr(racer, "LONG", racer.LONG._replace(shape=small, context=16))  # the validation text is short
    keeps_before_it_shows(monkeypatch, race, tmp_path / "results.json")
    known = (len(TEXT), len(set(TEXT)))
    for target, its_text, reached in ((9.0, known, True), (0.1, known, False), (9.0, race.TINY_SHAKESPEARE, False)):
        monkeypatch.setattr(race, "TARGET", target)
        monkeypatch.setattr(race, "TINY_SHAKESPEARE", its_text)
        assert call(monkeypatch, race, "--data", text, "--out", tmp_path, "--seeds", 2, "--steps", 2) == 0
        results = json.loads((tmp_path / "results.json").read_text())
        assert results["target"] == target and results["peer_seconds"] > 0
        assert [row["seed"] for row in results["seeds"]] == [0, 1]
        assert {"seconds_to_target", "val_at_peer_time"} <= results["seeds"][0].keys()
        assert all((row["seconds_to_target"] is not None) == reached for row in results["seeds"])
        assert (results["ratio"] is not None) == reached
        shown = capsys.readouterr().out
        assert ("times as fast" in shown) == reached
        losses = [row[key] for row in results["seeds"] for key in ("val", "val_at_peer_time")]
        assert all(told(loss) in shown for loss in losses)


@pytest.mark.slow
def test_the_peer_is_a_causal_transformer_of_nanogpts_shape_that_learns(text):
    training, _, vocab_size = racer.read_characters(text)
    them = peer.Peer(racer.crops(training, peer.BATCH, peer.CONTEXT, 0), vocab_size)
    parameters = sum(parameter.numel() for parameter in them.model.parameters())
    assert parameters == 4 * 12 * 128**2 + (64 + vocab_size + 9) * 128
    ids = them.batches(0).inputs
    changed = ids.clone()
    changed[:, 40] = (ids[:, 40] + 1) % vocab_size
    before, after = them.model(ids), them.model(changed)
    assert torch.allclose(before[:, :40], after[:, :40], atol=1e-6)
    assert not torch.allclose(before[:, 40:], after[:, 40:])
    losses = [them.step() for _ in range(60)]
    assert losses[0] == pytest.approx(np.log(vocab_size), abs=0.3) and losses[-1] < 0.8 * losses[0]


@pytest.mark.slow
def test_an_evening_trains_the_larger_model_alone(monkeypatch, capsys, tmp_path, text):
    monkeypatch.setattr(racer, "EVENING", racer.EVENING._replace(context=16))
    monkeypatch.setattr(peer, "Peer", None)
    keeps_before_it_shows(monkeypatch, race, tmp_path / "evening.json")
    assert call(monkeypatch, race, "--data", text, "--out", tmp_path, "--seeds", 1, "--steps", 2, "--evening") == 0
    results = json.loads((tmp_path / "evening.json").read_text())
    (row,) = results["seeds"]
    assert row["steps"] == 2 and row["parameters"] > 3e6 and row["val"] < 9 and row["seconds"] > 0
    assert told(row["val"]) in capsys.readouterr().out


def test_a_text_too_short_to_race_on_is_refused(monkeypatch, capsys, tmp_path, text):
    text.write_text("too short")
    refuses(monkeypatch, capsys, "9 characters are too few", race, "--data", text, "--out", tmp_path / "out")
    refuses(monkeypatch, capsys, "no such file", race, "--data", tmp_path / "none.txt", "--out", tmp_path / "out")
    refuses(monkeypatch, capsys, "--seeds: '0'", race, "--data", text, "--seeds", 0)
    refuses(monkeypatch, capsys, "--steps: '-1'", race, "--data", text, "--steps", -1)
    refuses(monkeypatch, capsys, "must be a file", race, "--data", "/dev/zero", "--out", tmp_path / "out")
    text.write_bytes(b"a" * 99_999 + b"\xe9")
    refuses(monkeypatch, capsys, "not UTF-8 text, byte 99999", race, "--data", text, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()
