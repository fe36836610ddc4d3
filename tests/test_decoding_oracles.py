"""Against `transformers` on the same random weights: one filter at a time, then greedy and beam search token for token.

Where the two differ on purpose (order of the filters, equals, rounding at the edge), the inputs stay clear of it.
"""

import pytest
import torch
from hf_adapter import random_llama
from hypothesis import given
from hypothesis import strategies as st
from strategies import logits, quick
from transformers.generation import logits_process as theirs

from decoding import (
    ban,
    beam_search,
    generate,
    min_p,
    no_repeat_ngram,
    repetition_penalty,
    temperature,
    top_k,
    top_p,
    uncached,
)

SPREAD = logits(kinds=["text"], dtypes=[torch.float64, torch.float32], rows=[(1,), (3,)], most=1000)


def same(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    return torch.equal(ours.isfinite(), theirs.isfinite()) and torch.allclose(ours.softmax(-1), theirs.softmax(-1))


@given(x=SPREAD, t=st.floats(0.1, 10))
@quick
def test_temperature(x, t):
    assert same(temperature(x, t), theirs.TemperatureLogitsWarper(t)(None, x))


@given(x=SPREAD, k=st.integers(1, 70))
@quick
def test_top_k(x, k):
    assert same(top_k(x, k), theirs.TopKLogitsWarper(k)(None, x))


@given(x=SPREAD, p=st.floats(0.01, 0.99))
@quick
def test_top_p(x, p):
    mass = x.double().sort(descending=True, dim=-1).values.softmax(-1).cumsum(-1)
    if (mass - p).abs().min() > 1e-5:  # at the edge ours forgives rounding
        assert same(top_p(x, p), theirs.TopPLogitsWarper(p)(None, x))


@given(x=SPREAD, p=st.floats(0.001, 0.999))
@quick
def test_min_p(x, p):
    share = (x - x.amax(-1, keepdim=True)).exp()
    if (share - p).abs().min() > 1e-5:
        assert same(min_p(x, p), theirs.MinPLogitsWarper(p)(None, x))


def histories(x: torch.Tensor) -> torch.Tensor:
    V = min(x.shape[-1], 6)
    return torch.randint(V, (len(x), 10), generator=torch.Generator().manual_seed(x.shape[-1]))


@given(x=SPREAD, penalty=st.floats(1, 5))
@quick
def test_repetition_penalty(x, penalty):
    ids = histories(x)
    ours = repetition_penalty(x, ids.tolist(), penalty)
    assert same(ours, theirs.RepetitionPenaltyLogitsProcessor(penalty)(ids, x.clone()))


@given(x=SPREAD, n=st.integers(1, 4))
@quick
def test_no_repeat_ngram(x, n):
    ids = histories(x)
    ours, reference = no_repeat_ngram(x, ids.tolist(), n), theirs.NoRepeatNGramLogitsProcessor(n)(ids, x.clone())
    assert torch.equal(ours, reference)


@given(x=SPREAD)
@quick
def test_banned_ids(x):
    assert torch.equal(ban(x, [0, 1]), theirs.SuppressTokensLogitsProcessor([0, 1])(None, x))


# ---- whole texts


@pytest.fixture(scope="module", params=[0, 1])
def llama(request):
    return random_llama(seed=request.param)


PROMPTS = [[1, 2, 3, 4], [5], [7, 8, 7, 8, 7], [22, 0, 11, 19, 3, 1]]
THEIR_NAMES = {"no_repeat_ngram": "no_repeat_ngram_size", "banned_ids": "suppress_tokens", "eos_id": "eos_token_id"}


def their_texts(llama, prompt: list[int], **settings) -> list[list[int]]:
    """What `transformers` generates, without the prompt and without the padding after an end token."""
    settings = {THEIR_NAMES.get(name, name): value for name, value in settings.items() if value is not None}
    ids = torch.tensor([prompt])
    out = llama.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, pad_token_id=0, **settings)
    texts = [ids[len(prompt) :] for ids in out.tolist()]
    ends = settings.get("eos_token_id", [])
    ends = [ends] if isinstance(ends, int) else ends
    return [next((ids[: i + 1] for i, id in enumerate(ids) if id in ends), ids) for ids in texts]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"eos_id": 6},
        {"eos_id": [2, 6, 9]},
        {"repetition_penalty": 1.5},
        {"no_repeat_ngram": 2},
        {"no_repeat_ngram": 1, "eos_id": 9},
        {"banned_ids": [3, 4, 5, 20]},
        {"repetition_penalty": 1.2, "no_repeat_ngram": 3, "banned_ids": [1]},
    ],
    ids=str,
)
@pytest.mark.claim("G11")
def test_greedy_token_for_token(llama, settings):
    ours = generate(uncached(llama), PROMPTS, max_new_tokens=16, temperature=0, **settings)
    assert [one.ids for one in ours] == [
        their_texts(llama, prompt, max_new_tokens=16, **settings)[0] for prompt in PROMPTS
    ]


@pytest.mark.parametrize("width", [2, 3, 5])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"eos_id": 6},
        {"eos_id": 6, "length_penalty": 1.0},
        {"eos_id": [2, 6, 9], "length_penalty": 2.0},
        {"eos_id": [2, 6, 9], "length_penalty": -1.0},
        {"no_repeat_ngram": 2, "eos_id": 9, "length_penalty": 1.0},
    ],
    ids=str,
)
def test_beam_search_token_for_token(llama, settings, width):
    """All of the list, in order. Their early stop is a heuristic unless it is told "never"."""
    for prompt in PROMPTS:
        ours = beam_search(uncached(llama), prompt, width=width, max_new_tokens=8, **settings)
        reference = {"length_penalty": 0.0} | settings
        assert [one.ids for one in ours] == their_texts(
            llama, prompt, max_new_tokens=8, num_beams=width, num_return_sequences=width, early_stopping="never",
            **reference,
        )  # fmt: skip


def test_beam_scores(llama):
    """Their sequence scores are ours: the sum of log-probabilities over the length in new tokens, to the penalty."""
    for penalty in (0.0, 1.0, 0.6):
        out = llama.generate(
            torch.tensor([PROMPTS[0]]), do_sample=False, num_beams=3, num_return_sequences=3, max_new_tokens=6,
            eos_token_id=6, pad_token_id=0, early_stopping="never", length_penalty=penalty, output_scores=True,
            return_dict_in_generate=True,
        )  # fmt: skip
        ours = beam_search(uncached(llama), PROMPTS[0], width=3, max_new_tokens=6, eos_id=6, length_penalty=penalty)
        assert [one.score for one in ours] == pytest.approx(out.sequences_scores.tolist(), rel=1e-5)
