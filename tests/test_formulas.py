"""Each formula against PyTorch's own, in values and gradients, and the property that makes it what it is."""

import math

import pytest
import torch
import torch.nn.functional as kernels
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from minigpt import formulas as F

seeds = st.integers(0, 2**32)


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_gradients(formula, inputs: list) -> list[torch.Tensor]:
    """The formula's value and its gradient in each input, for a random direction of the output."""
    inputs = [x.clone().requires_grad_() for x in inputs]
    value = formula(*inputs)
    return [value, *torch.autograd.grad(value, inputs, normal(*value.shape, seed=1))]


TARGETS = torch.tensor([[3, -100, 0], [7, 7, -100]])
FORMULAS = {
    "softmax": (F.softmax, lambda x: kernels.softmax(x, -1), [normal(2, 3, 9)]),
    "gelu": (F.gelu, lambda x: kernels.gelu(x, approximate="tanh"), [normal(50, scale=3)]),
    "silu": (F.silu, kernels.silu, [normal(50, scale=3)]),
    "rms_norm": (
        lambda x, w: F.rms_norm(x, w, 1e-5),
        lambda x, w: kernels.rms_norm(x, (9,), w, 1e-5),
        [normal(2, 3, 9), normal(9, seed=2)],
    ),
    "layer_norm": (
        lambda x, w, b: F.layer_norm(x, w, b, 1e-5),
        lambda x, w, b: kernels.layer_norm(x, (9,), w, b, 1e-5),
        [normal(2, 3, 9), normal(9, seed=2), normal(9, seed=3)],
    ),
    "layer_norm without bias": (
        lambda x, w: F.layer_norm(x, w, None, 1e-5),
        lambda x, w: kernels.layer_norm(x, (9,), w, None, 1e-5),
        [normal(2, 3, 9), normal(9, seed=2)],
    ),
    "cross_entropy": (
        lambda x: F.cross_entropy(x, TARGETS),
        lambda x: kernels.cross_entropy(x.flatten(0, 1), TARGETS.flatten()),
        [normal(2, 3, 9)],
    ),
    "cross_entropy, summed": (
        lambda x: F.cross_entropy(x, TARGETS, reduction="sum"),
        lambda x: kernels.cross_entropy(x.flatten(0, 1), TARGETS.flatten(), reduction="sum"),
        [normal(2, 3, 9)],
    ),
}


@pytest.mark.claim("P2")
@pytest.mark.parametrize("name", FORMULAS)
def test_a_formula_is_pytorchs_in_value_and_gradient(name):
    ours, theirs, inputs = FORMULAS[name]
    assert_close(with_gradients(ours, inputs), with_gradients(theirs, inputs), rtol=1e-10, atol=1e-12)


def summed_loss(x: torch.Tensor, fused: bool = False) -> torch.Tensor:
    return F.cross_entropy(x, TARGETS, reduction="sum", fused=fused)


@pytest.mark.parametrize("formula", [F.softmax, F.gelu, F.silu, summed_loss])
def test_fused_is_the_formula(formula):
    x = [normal(2, 3, 9, scale=3)]
    fused = with_gradients(lambda x: formula(x, fused=True), x)
    assert_close(fused, with_gradients(formula, x), rtol=1e-10, atol=1e-12)


@given(seeds, st.floats(-1e4, 1e4))
def test_softmax_sums_to_one_and_does_not_see_a_shift(seed, shift):
    x = normal(3, 7, seed=seed, scale=5)
    assert_close(F.softmax(x).sum(-1), torch.ones(3, dtype=torch.float64))
    assert_close(F.softmax(x + shift), F.softmax(x), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("fused", [False, True])
def test_softmax_does_not_overflow_and_gives_nothing_to_minus_infinity(fused):
    assert F.softmax(torch.tensor([1e30, -math.inf, -1e30]), fused).tolist() == [1, 0, 0]


@pytest.mark.claim("P3")
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_cross_entropy_of_half_precision_logits_is_computed_in_fp32(dtype, fused):
    logits, targets = normal(5, 300, scale=4).to(dtype), torch.arange(5)
    loss = F.cross_entropy(logits, targets, fused=fused)
    assert loss.dtype == torch.float32
    assert_close(loss, kernels.cross_entropy(logits.double(), targets).float(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("fused", [False, True])
def test_cross_entropy_over_no_target_is_nan_as_a_mean_and_0_as_a_sum(fused):
    logits, nothing = normal(2, 5), torch.tensor([-100, -100])
    assert F.cross_entropy(logits, nothing, fused=fused).isnan()
    assert F.cross_entropy(logits, nothing, reduction="sum", fused=fused) == 0


@pytest.mark.parametrize("fused", [False, True])
def test_cross_entropy_survives_large_logits_and_honours_another_ignored_target(fused):
    logits = torch.tensor([[1e6, 0.0], [0.0, 1e6], [5.0, 5.0]])
    targets = torch.tensor([0, 9, 1])
    assert_close(F.cross_entropy(logits, targets, ignore=9, fused=fused), torch.tensor(math.log(2) / 2))


@given(seeds, st.floats(0.01, 100))
def test_norms_do_not_see_the_scale_of_a_vector(seed, scale):
    x, weight = normal(4, 8, seed=seed), torch.ones(8, dtype=torch.float64)
    rms, layer = F.rms_norm(x, weight, 0.0), F.layer_norm(x, weight, None, 0.0)
    assert_close(F.rms_norm(scale * x, weight, 0.0), rms)
    assert_close(F.layer_norm(scale * x + 3, weight, None, 0.0), layer)
    assert_close(rms.square().mean(-1), torch.ones(4, dtype=torch.float64))
    assert_close(layer.mean(-1), torch.zeros(4, dtype=torch.float64))


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_drops_its_share_and_keeps_the_mean(rate):
    torch.manual_seed(0)
    dropped = F.dropout(torch.full((100_000,), 2.0), rate)
    assert dropped.unique().tolist() == pytest.approx([0, 2 / (1 - rate)])
    assert (dropped == 0).float().mean().item() == pytest.approx(rate, abs=0.01)
    assert dropped.mean().item() == pytest.approx(2, rel=0.05)


def test_rotary_is_llamas():
    positions = torch.tensor([0, 1, 5, 1000])
    query, key = normal(2, 4, 4, 8), normal(2, 2, 4, 8, seed=1)
    cos, sin = F.rotary(positions, 8, 10_000.0, torch.float64)
    theirs = apply_rotary_pos_emb(query, key, cos[None], torch.cat([-sin[:, :4], sin[:, 4:]], -1)[None])
    assert_close((F.rotate(query, cos, sin), F.rotate(key, cos, sin)), theirs)


@given(seeds, st.integers(0, 8000), st.integers(0, 100))
def test_rotary_keeps_lengths_and_a_product_tells_the_distance_alone(seed, start, distance):
    query, key = normal(1, 1, 1, 8, seed=seed), normal(1, 1, 1, 8, seed=seed + 1)

    def turned(x, position):
        return F.rotate(x, *F.rotary(torch.tensor([position]), 8, 500.0, torch.float64))

    assert_close(turned(query, start).norm(), query.norm())
    here = (turned(query, start + distance) * turned(key, start)).sum()
    assert_close(here, (turned(query, distance) * turned(key, 0)).sum(), rtol=1e-8, atol=1e-10)


def test_each_row_of_a_batch_may_have_positions_of_its_own():
    x, positions = normal(2, 3, 4, 8), torch.tensor([[0, 1, 2, 3], [5, 6, 7, 8]])
    batch = F.rotate(x, *F.rotary(positions[:, None], 8, 1e4, torch.float64))
    for row in range(2):
        alone = F.rotate(x[row : row + 1], *F.rotary(positions[row], 8, 1e4, torch.float64))
        assert_close(batch[row : row + 1], alone)


MASKS = {
    "none": None,
    "causal": F.causal_mask(torch.arange(5), 5),
    "later queries": F.causal_mask(torch.arange(3, 8), 8),
    "by row": (torch.rand(2, 1, 5, 7, generator=torch.Generator().manual_seed(3)) < 0.5) | (torch.arange(7) == 0),
}


@pytest.mark.claim("P2")
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("key_heads", [6, 3, 1])
@pytest.mark.parametrize("mask", MASKS)
def test_attention_is_pytorchs_with_masks_and_grouped_heads(mask, key_heads, fused):
    mask = MASKS[mask]
    stored = 5 if mask is None else mask.shape[-1]
    inputs = [normal(2, 6, 5, 4), normal(2, key_heads, stored, 4, seed=1), normal(2, key_heads, stored, 4, seed=2)]
    ours = with_gradients(lambda q, k, v: F.causal_attention(q, k, v, mask, fused), inputs)
    theirs = with_gradients(
        lambda q, k, v: kernels.scaled_dot_product_attention(q, k, v, mask, enable_gqa=True), inputs
    )
    assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("new", "stored"), [(1, 7), (3, 130), (130, 130)])
def test_the_kernel_for_one_token_and_for_long_rows_is_the_formula(new, stored):
    query, key, value = normal(2, 4, new, 6), normal(2, 2, stored, 6, seed=1), normal(2, 2, stored, 6, seed=2)
    mask = F.causal_mask(torch.arange(stored - new, stored), stored)
    fused, formula = (F.causal_attention(query, key, value, mask, fused) for fused in (True, False))
    assert_close(fused, formula, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("fused", [False, True])
def test_no_logit_is_large_enough_to_see_past_the_causal_mask(fused):
    # minGPT issue 75: a mask of -1e4 that large logits beat
    query, key, value = (normal(1, 2, 6, 4, seed=i, scale=1e4) for i in range(3))
    mask = F.causal_mask(torch.arange(6), 6)
    before = F.causal_attention(query, key, value, mask, fused)
    key[:, :, 4:], value[:, :, 4:] = 1e6, -1e6
    after = F.causal_attention(query, key, value, mask, fused)
    assert torch.equal(before[:, :, :4], after[:, :, :4])


@given(st.integers(1, 12), st.integers(0, 12))
def test_the_causal_mask_lets_a_token_see_itself_and_what_came_before(count, start):
    mask = F.causal_mask(torch.arange(start, start + count), start + count)
    assert mask.tolist() == [[s <= start + t for s in range(start + count)] for t in range(count)]
