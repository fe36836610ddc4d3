"""The lecture in one file: its pieces compute what those of the packages do, and the whole of it answers."""

import ast
import random
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import decoding
from minigpt import formulas, tokenizer
from minigpt.data import IGNORE
from scripts import nutshell
from sft import Message, encode_conversation
from sft.data import Rows, collate

SOURCE = Path(nutshell.__file__)


def random_model(V: int, seed: int) -> nutshell.GPT:
    torch.manual_seed(seed)
    model = nutshell.GPT(V, T=12, C=16, H=2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.5)
    return model.double().eval()


def test_it_is_short_and_needs_torch_alone():
    text = SOURCE.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 200
    imported = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module)
    assert {name.partition(".")[0] for name in imported} - sys.stdlib_module_names <= {"torch", "numpy"}


def test_it_names_the_lecture_s_statements_in_their_order():
    headings = re.findall(r"^# ---- ([PGS]\d+)", SOURCE.read_text(encoding="utf-8"), re.M)
    assert headings == ["P1", "P2", "P3", "G1", "S3"]


def test_its_tokens_are_the_package_s():
    texts = ["Zoe lives in Oslo. She has a cat.", "Ada lives in Rome. She has a dog.", "Where does Ada live?"]
    chunks = Counter(chunk for text in texts for chunk in nutshell.split(text))
    made = tokenizer.learn_merges(chunks, 30)
    tok = nutshell.Tokenizer(texts, 30)
    assert tok.tokens[3 + 256 :] == made and len(made) == 30
    theirs = tokenizer.Tokenizer([bytes([byte]) for byte in range(256)] + made)
    for text in [*texts, "Ada has Oslo."]:
        assert tok.encode(text) == [3 + i for i in theirs.encode(" " + text)]
        assert tok.decode(tok.encode(text)) == text


def test_merges_stop_when_every_chunk_is_one_token():
    assert nutshell.Tokenizer(["a b"], 99).tokens[3 + 256 :] == [b" b", b" a"]


def test_its_attention_is_the_package_s():
    q, k, v = torch.randn(3, 2, 4, 5, 6, dtype=torch.float64).unbind()
    torch.testing.assert_close(nutshell.attention(q, k, v), formulas.causal_attention(q, k, v))


def test_its_loss_is_the_package_s():
    logits = torch.randn(3, 5, 7, dtype=torch.float64)
    targets = torch.randint(7, (3, 5))
    targets[torch.rand(3, 5) < 0.4] = IGNORE
    targets[0, 0] = 3
    assert nutshell.IGNORE == IGNORE
    torch.testing.assert_close(nutshell.cross_entropy(logits, targets), formulas.cross_entropy(logits, targets))


@given(st.integers(0, 10**6), st.floats(0, 0.999))
def test_its_top_p_is_the_package_s(seed, p):
    logits = 3 * torch.randn(9, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    assert torch.equal(nutshell.top_p(logits, p), decoding.top_p(logits, p))


@pytest.mark.parametrize("p", [0.25, 0.5, 0.75])
def test_its_top_p_stops_at_the_token_that_reaches_p(p):
    logits = torch.full((4,), 0.25).log()
    kept = nutshell.top_p(logits, p).isfinite().tolist()
    assert kept == [i < 4 * p for i in range(4)] == decoding.top_p(logits, p).isfinite().tolist()


@pytest.mark.parametrize("width", [1, 2, 3])
@pytest.mark.parametrize("seed", range(8))
def test_its_beam_search_is_the_package_s(width, seed):
    model = random_model(5, seed)
    ids, logprob = nutshell.beam(model, [1, 2], width, limit=5)
    best = decoding.beam_search(
        decoding.uncached(model, 12), [1, 2], width=width, max_new_tokens=5, eos_id=nutshell.END
    )[0]
    assert ids == best.ids
    assert logprob == pytest.approx(best.logprob)


def test_its_greedy_loop_is_the_package_s_and_some_of_its_texts_end():
    ends = set()
    for seed in range(12):
        model = random_model(5, seed)
        uncached = decoding.uncached(model, 12)
        [one] = decoding.generate(uncached, [[1, 2]], max_new_tokens=6, temperature=0, eos_id=nutshell.END)
        assert nutshell.generate(model, [1, 2], nutshell.greedy, limit=6) == one.ids
        ends.add(one.stop)
    assert ends == {"eos", "length"}


def test_its_draws_follow_the_probabilities():
    torch.manual_seed(0)
    logits = torch.tensor([0.5, 0.3, 0.2]).log()
    counts = Counter(nutshell.draw(logits) for _ in range(2000))
    assert [counts[i] / 2000 for i in range(3)] == pytest.approx([0.5, 0.3, 0.2], abs=0.04)
    torch.manual_seed(0)
    assert {nutshell.nucleus(torch.tensor([0.5, 0.4, 0.1]).log()) for _ in range(200)} == {0, 1}


def test_its_layout_and_mask_are_the_package_s(tok):
    special = {tok.special[name]: i for i, name in enumerate(tokenizer.SPECIAL_TOKENS)}
    ids, learn = encode_conversation(tok, [Message("user", "Who is Ada?"), Message("assistant", "A baker.")])
    assert nutshell.encode_pair(tok, "Who is Ada?", "A baker.") == ([special.get(i, i) for i in ids], learn)


def test_its_loop_learns_what_the_package_s_batches_say(monkeypatch):
    rows = [([5, 6, 7, 8], [False, False, True, True]), ([4, 3], [False, True])]
    model = random_model(9, 0).float()
    seen = SimpleNamespace()

    def record(logits, targets):
        seen.logits, seen.targets = logits.detach(), targets
        return logits.sum()

    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    expected = collate(Rows([ids for ids, _ in rows], [learn for _, learn in rows], 0, 0), [0, 1])
    expected_logits = model(expected.inputs).detach()
    monkeypatch.setattr(nutshell, "cross_entropy", record)
    picker = SimpleNamespace(sample=lambda rows, size: rows)
    nutshell.train(model, rows, 4, 1e-3, SimpleNamespace(sample=lambda rows, size: rows[:2]))
    assert torch.equal(seen.targets, expected.targets)
    assert any(not torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    model.load_state_dict(before)
    nutshell.train(model, rows, 4, 0.0, picker)
    torch.testing.assert_close(seen.logits, expected_logits)


def test_only_questions_tell_no_fact():
    rng = random.Random(0)
    town = {(name, kind): "VALUE" for name in nutshell.NAMES for kind in nutshell.KINDS}
    texts = [nutshell.document(town, rng) for _ in range(500)]
    asking = [text for text in texts if "?" in text]
    assert 50 < len(asking) < 150 and not any("VALUE" in text for text in asking)
    assert all(text.count("VALUE") == 3 and text.count("She ") == 2 for text in texts if "?" not in text)


@pytest.mark.claim("S6")
@pytest.mark.claim("S1")
@pytest.mark.slow
def test_the_whole_of_it_runs_and_answers():
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "scripts.nutshell"]
    run = subprocess.run(command, cwd=SOURCE.parent.parent, capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    base, answers = run.stdout.split("S5 ")
    assert "[' " in base and "', ' lives', ' in', ' " in base  # tokens with their spaces
    assert base.count("<end> Zoe ") == 4 and base.count("perplexity") == 6
    assert "She lives in" not in base.split("it continues:")[1]
    assert len(re.findall(r"^  (right|wrong)", answers, re.M)) == 24
    assert len(re.findall(r"^  right", answers, re.M)) >= 20, answers
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 120  # of two cores: a minute
