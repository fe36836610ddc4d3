"""decoding/fast/ against the plain definitions: the same ids, stops and kept tokens, log-probabilities alike."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import OUT, filter_settings, logits, probabilities, prompts, quick, random_trees

from decoding import beam, filters, generate
from decoding.fast import ranking
from plain_or_fast import plain


@given(x=logits(), k=st.one_of(st.integers(1, 70), st.sampled_from([1000, 50_257, 10**9])))
@quick
def test_top_k(x, k):
    with plain():
        assert torch.equal(filters.top_k(x, k), ranking.top_k(x, k))


@given(x=logits(), p=probabilities)
@quick
def test_top_p(x, p):
    with plain():
        assert torch.equal(filters.top_p(x, p), ranking.top_p(x, p))


@given(x=logits(rows=[(1,)], dtypes=[torch.float64]), n=st.integers(1, 40))
@quick
def test_best_candidates(x, n):
    with plain():
        assert beam.best_candidates(x[0], n) == ranking.best_candidates(x[0], n)


@pytest.mark.parametrize("filter", [lambda x: filters.top_k(x, 2), lambda x: filters.top_p(x, 0.5)])
def test_a_row_that_an_earlier_filter_left_empty_stays_empty(filter, edition):
    x = torch.tensor([[0.0, 1.0, 2.0], [OUT, OUT, OUT]])
    assert filter(x).isfinite().any(-1).tolist() == [True, False]
    assert filter(x[1]).tolist() == [OUT] * 3


@pytest.mark.parametrize("filter", [lambda x: filters.top_k(x, 2), lambda x: filters.top_p(x, 0.5)])
def test_gradients_pass_through_what_a_filter_keeps(filter, edition):
    x = torch.tensor([0.0, 1.0, 2.0, -1.0], requires_grad=True)
    kept = filter(x)
    kept[kept > OUT].sum().backward()
    assert torch.equal(x.grad, (kept > OUT).float())


@given(data=st.data())
@quick
def test_many_prompts_side_by_side(data):
    """generate_each, row for row: any model, prompts, settings and seeds."""
    model = data.draw(random_trees(windows=(None, None, 8, 12)))
    settings = data.draw(filter_settings(model.vocab_size))
    settings |= {
        "max_new_tokens": data.draw(st.integers(1, 8)),
        "eos_id": data.draw(st.sampled_from([None, 0, [0, 1]])),
        "seed": data.draw(st.integers(0, 1000)),
        "stop": data.draw(st.lists(st.sampled_from(["0", "12", "11", "2"]), max_size=2)),
        "decode": lambda ids: "".join(map(str, ids)),
        "filters": data.draw(st.sampled_from([[], [lambda x: x.masked_fill(x == x.min(), OUT)]])),
    }
    settings["min_new_tokens"] = data.draw(st.integers(0, settings["max_new_tokens"]))
    texts = data.draw(prompts(model))
    fast = generate(model, texts, **settings)
    with plain():
        slow = generate(model, texts, **settings)
    for one, other in zip(fast, slow, strict=True):
        assert (one.ids, one.stop, one.text) == (other.ids, other.stop, other.text)
        assert one.logprobs == pytest.approx(other.logprobs, rel=1e-12, abs=1e-15)
