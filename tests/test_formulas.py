"""Each formula against PyTorch's own, in values and gradients, and the property that makes it what it is."""

import math

import pytest
import torch
import torch.nn.functional as reference
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from minigpt import formulas
from minigpt.fast import kernels
from plain_or_fast import plain

pytestmark = pytest.mark.usefixtures("edition")
seeds = st.integers(0, 2**32)


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_gradients(formula, inputs: list) -> list[torch.Tensor]:
    """The formula's value and its gradient in each input, for a random direction of the output."""
    inputs = [x.clone().requires_grad_() for x in inputs]
    value = formula(*inputs)
    return [value, *torch.autograd.grad(value, inputs, normal(*value.shape, seed=1))]


def as_complex_numbers(x: torch.Tensor, positions: torch.Tensor, theta: float) -> torch.Tensor:
    """Rotary positions once more: each pair is a complex number, multiplied by one of length 1."""
    angles = positions[:, None] * theta ** (-torch.arange(0, x.size(-1), 2, dtype=torch.float64) / x.size(-1))
    turned = torch.complex(*x.chunk(2, -1)) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([turned.real, turned.imag], -1)


PLACES = torch.tensor([3, 0, 7])
TARGETS = torch.tensor([[3, -100, 0], [7, 7, -100]])
FORMULAS = {
    "softmax": (formulas.softmax, lambda x: reference.softmax(x, -1), [normal(2, 3, 9)]),
    "gelu": (formulas.gelu, lambda x: reference.gelu(x, approximate="tanh"), [normal(50, scale=3)]),
    "silu": (formulas.silu, reference.silu, [normal(50, scale=3)]),
    "rms_norm": (
        lambda x, w: formulas.rms_norm(x, w, 1e-5),
        lambda x, w: reference.rms_norm(x, (9,), w, 1e-5),
        [normal(2, 3, 9), normal(9, seed=2)],
    ),
    "layer_norm": (
        lambda x, w, b: formulas.layer_norm(x, w, b, 1e-5),
        lambda x, w, b: reference.layer_norm(x, (9,), w, b, 1e-5),
        [normal(2, 3, 9), normal(9, seed=2), normal(9, seed=3)],
    ),
    "layer_norm without bias": (
        lambda x, w: formulas.layer_norm(x, w, None, 1e-5),
        lambda x, w: reference.layer_norm(x, (9,), w, None, 1e-5),
        [normal(2, 3, 9), normal(9, seed=2)],
    ),
    "rotary": (
        lambda x: formulas.rotary(x, PLACES, 100.0),
        lambda x: as_complex_numbers(x, PLACES, 100.0),
        [normal(2, 3, 8)],
    ),
    "cross_entropy": (
        lambda x: formulas.cross_entropy(x, TARGETS),
        lambda x: reference.cross_entropy(x.flatten(0, 1), TARGETS.flatten()),
        [normal(2, 3, 9)],
    ),
    "cross_entropy, summed": (
        lambda x: formulas.cross_entropy(x, TARGETS, reduction="sum"),
        lambda x: reference.cross_entropy(x.flatten(0, 1), TARGETS.flatten(), reduction="sum"),
        [normal(2, 3, 9)],
    ),
}


@pytest.mark.claim("P2")
@pytest.mark.parametrize("name", FORMULAS)
def test_a_formula_is_pytorchs_in_value_and_gradient(name):
    ours, theirs, inputs = FORMULAS[name]
    assert_close(with_gradients(ours, inputs), with_gradients(theirs, inputs), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", FORMULAS)
def test_the_fast_twin_of_a_formula_is_equal_in_value_and_gradient(name):
    formula, _, inputs = FORMULAS[name]
    fast = with_gradients(formula, inputs)
    with plain():
        assert_close(with_gradients(formula, inputs), fast, rtol=1e-10, atol=1e-12)


HALF, SINGLE = torch.bfloat16, torch.float32


@pytest.mark.parametrize("x, weight", [(HALF, HALF), (HALF, SINGLE), (SINGLE, HALF)])
def test_rms_norms_gradients_have_the_types_of_what_they_belong_to(x, weight):
    inputs = [normal(2, 3, 9).to(x), normal(9, seed=2).to(weight)]
    value, *gradients = with_gradients(lambda *given: formulas.rms_norm(*given, 1e-5).double(), inputs)
    exact = with_gradients(FORMULAS["rms_norm"][1], [each.double() for each in inputs])
    assert [gradient.dtype for gradient in gradients] == [given.dtype for given in inputs]
    assert_close([value, *(each.double() for each in gradients)], exact, rtol=0.05, atol=0.1)


@pytest.mark.parametrize("shape", [(9,), (0, 9), (1, 2, 3, 9)])
def test_rms_norm_takes_a_vector_no_vector_and_many(shape):
    ours, theirs, (_, weight) = FORMULAS["rms_norm"]
    inputs = [normal(*shape), weight]
    assert_close(with_gradients(ours, inputs), with_gradients(theirs, inputs), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_formula_is_pytorchs_without_a_gradient_too(name, mode, dtype):
    ours, theirs, inputs = FORMULAS[name]
    given = [each.to(dtype) if each.is_floating_point() else each for each in inputs]
    with mode():
        expected = theirs(*given).to(dtype)
        assert_close(ours(*given), expected)
        with plain():
            assert_close(ours(*given), expected)


@given(seeds, st.floats(-1e4, 1e4))
def test_softmax_sums_to_one_and_does_not_see_a_shift(seed, shift):
    x = normal(3, 7, seed=seed, scale=5)
    assert_close(formulas.softmax(x).sum(-1), torch.ones(3, dtype=torch.float64))
    assert_close(formulas.softmax(x + shift), formulas.softmax(x), rtol=1e-8, atol=1e-12)


def test_softmax_does_not_overflow_and_gives_nothing_to_minus_infinity():
    assert formulas.softmax(torch.tensor([1e30, -math.inf, -1e30])).tolist() == [1, 0, 0]


@pytest.mark.claim("P3")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_cross_entropy_of_half_precision_logits_is_computed_in_fp32(dtype):
    logits, targets = normal(5, 300, scale=4).to(dtype), torch.arange(5)
    loss = formulas.cross_entropy(logits, targets)
    assert loss.dtype == torch.float32
    assert_close(loss, reference.cross_entropy(logits.double(), targets).float(), rtol=1e-6, atol=0)


def test_cross_entropy_over_no_target_is_nan_as_a_mean_and_0_as_a_sum():
    logits, nothing = normal(2, 5), torch.tensor([-100, -100])
    assert formulas.cross_entropy(logits, nothing).isnan()
    assert formulas.cross_entropy(logits, nothing, reduction="sum") == 0


def test_cross_entropy_survives_large_logits_and_honours_another_ignored_target():
    logits = torch.tensor([[1e6, 0.0], [0.0, 1e6], [5.0, 5.0]])
    targets = torch.tensor([0, 9, 1])
    assert_close(formulas.cross_entropy(logits, targets, ignore=9), torch.tensor(math.log(2) / 2))


@given(seeds, st.floats(0.01, 100))
def test_norms_do_not_see_the_scale_of_a_vector(seed, scale):
    x, weight = normal(4, 8, seed=seed), torch.ones(8, dtype=torch.float64)
    rms, layer = formulas.rms_norm(x, weight, 0.0), formulas.layer_norm(x, weight, None, 0.0)
    assert_close(formulas.rms_norm(scale * x, weight, 0.0), rms)
    assert_close(formulas.layer_norm(scale * x + 3, weight, None, 0.0), layer)
    assert_close(rms.square().mean(-1), torch.ones(4, dtype=torch.float64))
    assert_close(layer.mean(-1), torch.zeros(4, dtype=torch.float64))


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_drops_its_share_and_keeps_the_mean(rate):
    torch.manual_seed(0)
    dropped = formulas.dropout(torch.full((100_000,), 2.0), rate)
    assert dropped.unique().tolist() == pytest.approx([0, 2 / (1 - rate)])
    assert (dropped == 0).float().mean().item() == pytest.approx(rate, abs=0.01)
    assert dropped.mean().item() == pytest.approx(2, rel=0.05)


def test_dropout_of_nothing_draws_no_random_number():
    torch.manual_seed(0)
    before, x = torch.get_rng_state(), normal(3)
    assert formulas.dropout(x, 0.0) is x and torch.equal(torch.get_rng_state(), before)


def test_rotary_is_llamas():
    positions = torch.tensor([0, 1, 5, 1000])
    query, key = normal(2, 4, 4, 8), normal(2, 2, 4, 8, seed=1)
    angles = positions[:, None] * 10_000.0 ** (-torch.arange(0, 8, 2, dtype=torch.float64) / 8)
    cos, sin = (torch.cat([x, x], -1)[None] for x in (angles.cos(), angles.sin()))
    ours = formulas.rotary(query, positions, 10_000.0), formulas.rotary(key, positions, 10_000.0)
    assert_close(ours, apply_rotary_pos_emb(query, key, cos, sin))


@given(seeds, st.integers(0, 8000), st.integers(0, 100))
def test_rotary_keeps_lengths_and_a_product_tells_the_distance_alone(seed, start, distance):
    query, key = normal(1, 1, 1, 8, seed=seed), normal(1, 1, 1, 8, seed=seed + 1)

    def turned(x, position):
        return formulas.rotary(x, torch.tensor([position]), 500.0)

    assert_close(turned(query, start).norm(), query.norm())
    here = (turned(query, start + distance) * turned(key, start)).sum()
    assert_close(here, (turned(query, distance) * turned(key, 0)).sum(), rtol=1e-8, atol=1e-10)


def test_rotary_may_be_asked_for_by_an_evaluation_first_and_by_training_then():
    x, positions = normal(2, 3, 8).requires_grad_(), torch.arange(70, 73)
    with torch.inference_mode():
        formulas.rotary(x, positions, 321.0)
    formulas.rotary(x, positions, 321.0).sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.claim("P2")
@pytest.mark.parametrize("key_heads", [6, 3, 1])
@pytest.mark.parametrize(("new", "stored"), [(5, 5), (5, 8), (1, 1), (1, 7), (3, 130), (130, 130)])
def test_attention_is_pytorchs_with_grouped_heads(new, stored, key_heads):
    mask = torch.ones(new, stored, dtype=torch.bool).tril(stored - new)
    inputs = [normal(2, 6, new, 4), normal(2, key_heads, stored, 4, seed=1), normal(2, key_heads, stored, 4, seed=2)]
    theirs = with_gradients(
        lambda q, k, v: reference.scaled_dot_product_attention(q, k, v, mask, enable_gqa=True), inputs
    )
    ours = with_gradients(formulas.causal_attention, inputs)
    assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    with plain():
        assert_close(with_gradients(formulas.causal_attention, inputs), ours, rtol=1e-10, atol=1e-12)


MASKS = {
    "none": None,
    "causal": formulas.causal_mask(5, 5),
    "by row": (torch.rand(2, 1, 5, 7, generator=torch.Generator().manual_seed(3)) < 0.5) | (torch.arange(7) == 0),
}


@pytest.mark.parametrize("mask", MASKS)
def test_the_engine_s_attention_is_pytorchs_for_any_mask(mask):
    mask = MASKS[mask]
    stored = 5 if mask is None else mask.shape[-1]
    inputs = normal(2, 6, 5, 4), normal(2, 3, stored, 4, seed=1), normal(2, 3, stored, 4, seed=2)
    theirs = reference.scaled_dot_product_attention(*inputs, mask, enable_gqa=True)
    assert_close(kernels.attention(*inputs, mask), theirs, rtol=1e-10, atol=1e-12)


def test_no_logit_is_large_enough_to_see_past_the_causal_mask():
    # docs/known_bugs.md: a mask of -1e4 that large logits beat
    query, key, value = (normal(1, 2, 6, 4, seed=i, scale=1e4) for i in range(3))
    before = formulas.causal_attention(query, key, value)
    key[:, :, 4:], value[:, :, 4:] = 1e6, -1e6
    after = formulas.causal_attention(query, key, value)
    assert torch.equal(before[:, :, :4], after[:, :, :4])


@given(st.integers(1, 12), st.integers(0, 12))
def test_the_causal_mask_lets_a_token_see_itself_and_what_came_before(count, start):
    mask = formulas.causal_mask(count, start + count)
    assert mask.tolist() == [[s <= start + t for s in range(start + count)] for t in range(count)]


@pytest.mark.parametrize("reduction", ["none", "men", None])
def test_another_reduction_is_refused_and_not_taken_for_the_mean(reduction):
    with pytest.raises(ValueError, match=f"reduction={reduction!r}: must be mean or sum"):
        formulas.cross_entropy(normal(2, 5), torch.tensor([1, 2]), reduction=reduction)
