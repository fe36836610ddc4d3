"""What the comparison of algorithms marks in their texts, and a loss in the units that a reader knows."""

import math

import numpy as np
import pytest
from conftest import tiny
from hypothesis import given
from hypothesis import strategies as st

from decoding import Generation, beam_search, generate
from scripts.support import comparison
from scripts.support.measuring.answers import as_far_as, as_text
from scripts.support.measuring.repetition import repetition
from scripts.support.measuring.text_loss import bits_per_byte, told


def test_a_comparison_marks_what_repeats_what_is_unlikely_and_the_beam_that_wins(tok):
    model = tiny(vocab_size=tok.vocab_size, context_length=32)
    trace = comparison.trace(model, tok, "Ada", look_at="Ada lives in", new_tokens=12)
    ids = as_text(tok, "Ada")
    endless = comparison.Endless(model, [*tok.special.values()])
    for row in trace["continuations"]:
        assert "".join(text for text, _ in row["marked"]) + " …" == row["text"], row["strategy"]
    hot = next(row for row in trace["continuations"] if row["strategy"] == "high_temperature")
    [said] = generate(endless, [ids], max_new_tokens=12, temperature=1.5, seed=hot["seed"])
    assert tok.decode(said.ids) + " …" == hot["text"]

    # the least likely of all drawn tokens, found by the model's own distribution
    drawn = []
    for one in generate(endless, [ids] * 20, max_new_tokens=12, seed=0):
        for place, id in enumerate(one.ids):
            logits, _ = endless.prefill([ids + one.ids[:place]])
            drawn.append((logits[0].softmax(-1)[id].item(), one.ids[place]))
    odd, (p, id) = trace["least_likely"], min(drawn)
    assert (odd["p"], odd["token"]) == (pytest.approx(p, rel=1e-3), tok.decode([id]))
    assert odd["tokens"] == 240 and odd["unlikely"] == sum(p < comparison.UNLIKELY for p, _ in drawn)

    # the tree's winner is the beam search's
    [best, *_] = beam_search(model, as_text(tok, "Ada lives in"), width=3, max_new_tokens=4)
    won = [entry for turn in trace["tree"] for entry in turn["kept"] + turn["pruned"] if entry["best"]]
    assert [entry["text"] for entry in won] == [tok.decode([id]) for id in best.ids]
    assert won[-1]["probability"] == pytest.approx(math.exp(best.logprob))


def test_tokens_are_marked_by_their_own_probability_and_by_what_came_before(tok):
    ids = tok.encode("abcd")[:1] * 6
    said = Generation(ids, 0.0, 0.0, "length", [-0.1] * 5 + [math.log(0.009)])
    assert comparison.marked(tok, said) == [("a", ""), ("aaaa", "repeat"), ("a", "unlikely")]


@pytest.mark.claim("G11")
@given(st.lists(st.integers(0, 2), max_size=20), st.integers(1, 4))
def test_the_share_of_repetition_counts_the_copies_of_earlier_n_grams(ids, n):
    places = range(len(ids) - n + 1)
    copies = [any(ids[j : j + n] == ids[i : i + n] for j in range(i)) for i in places]
    assert repetition(ids, n) == pytest.approx(sum(copies) / max(1, len(copies)))
    assert repetition([7] * 40) == 36 / 37 and repetition(list(range(40))) == 0


def test_a_loss_in_other_units(tok):
    text = "Ada lives in Oslo. é"
    tokens = np.array([tok.end_id, *tok.encode(text)], dtype=np.uint16)
    bits = bits_per_byte(math.log(2), tok, tokens)  # one bit per token
    assert bits == pytest.approx(len(tokens) / len(text.encode()))
    assert told(0.0) == "0.000 (perplexity 1.00)" and told(1000.0) == "1000.000 (perplexity inf)"


def test_a_text_that_was_cut_says_so(tok):
    for stop, end in (("length", " …"), ("context", " …"), ("eos", ""), ("blocked", "")):
        assert as_far_as(tok, Generation(tok.encode("Ada"), 0.0, 0.0, stop, [])) == "Ada" + end
