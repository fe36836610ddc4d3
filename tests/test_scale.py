"""What training takes, measured, is what it takes on paper; and what is split or recomputed is less by as much (P4)."""

import json

import pytest
from helpers import call, refuses

from scripts import scale
from scripts.lab import claims

SMALL = {"vocab_size": 64, "context_length": 32, "n_layers": 3, "n_heads": 2, "d_model": 32, "d_ff": 96}


@pytest.mark.claim("P4")
def test_one_process_holds_what_is_on_paper():
    found, paper = scale.measure("plain", SMALL, rows=4), scale.on_paper(SMALL, rows=4)
    assert {part: found[part] for part in scale.PARTS[:3]} == {part: paper[part] for part in scale.PARTS[:3]}
    assert found["activations"] == pytest.approx(paper["activations"], rel=0.2)


@pytest.mark.claim("P4")
def test_what_is_recomputed_is_not_kept():
    plain, fewer = (scale.measure(name, SMALL, rows=4) for name in ("plain", "recomputed"))
    assert {part: fewer[part] for part in scale.PARTS[:3]} == {part: plain[part] for part in scale.PARTS[:3]}
    entering = 4 * 4 * 32 * (3 * 32)  # each block's input, in fp32
    head = 4 * 4 * 32 * (2 * 64 + 2 * 32)  # logits, their probabilities, and the last norm
    assert entering < fewer["activations"] < 1.5 * (entering + head) < plain["activations"]


@pytest.mark.slow
@pytest.mark.claim("P4")
def test_shares_are_shares_of_everything(tmp_path, monkeypatch, capsys):
    assert call(monkeypatch, scale, "--out", tmp_path / "scale") == 0
    said = capsys.readouterr().out
    assert all(name in said for name in scale.WAYS) and "Llama 3 405B on paper" in said
    found = json.loads((tmp_path / "scale" / "results.json").read_text())
    plain = found["plain"]
    for part in scale.PARTS[:3]:
        assert found["replicated"][part] == plain[part]
        assert found["sharded"][part] == found["sharded, recomputed"][part] == pytest.approx(plain[part] / 2, rel=0.01)
    for name in ("replicated", "sharded"):
        assert found[name]["activations"] == pytest.approx(plain["activations"] / 2, rel=0.02)
    assert found["sharded, recomputed"]["activations"] < found["sharded"]["activations"] / 8
    assert "each of 2 processes holds 50% of the weights" in claims._scale(RESULTS | {"scale": found})


RESULTS = {"base": {"parameters": 900_000, "tokens_per_second": 15_000}}


def test_the_claim_reads_what_was_measured_and_says_where_to_measure_it():
    assert "make scale measures the rest" in claims._scale(RESULTS)
    scaled = {"processes": 4, "plain": {"weights": 8, "activations": 50}, "sharded": {"weights": 2}}
    said = claims._scale(RESULTS | {"scale": scaled | {"recomputed": {"activations": 5}}})
    assert said.startswith("each of 4 processes holds 25% of the weights; 10% of the activations are kept")


def test_one_process_alone_shares_nothing(tmp_path, monkeypatch, capsys):
    refuses(monkeypatch, capsys, "--processes", scale, "--processes", 1, "--out", tmp_path / "scale")
    assert not (tmp_path / "scale").exists()
