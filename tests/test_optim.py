"""AdamW, clipping and the schedule against PyTorch's, number by number."""

import pytest
import torch
from conftest import tiny
from hypothesis import assume, given
from hypothesis import strategies as st
from torch.testing import assert_close

from minigpt import TrainConfig
from minigpt.optim import AdamW, clip_gradients, learning_rate

plans = st.builds(
    TrainConfig,
    steps=st.integers(1, 300),
    warmup=st.integers(0, 100),
    schedule=st.sampled_from(["linear", "cosine"]),
    final_lr=st.floats(0, 1),
)


@pytest.mark.claim("P3")
@pytest.mark.parametrize("largest", [1e9, 0.5], ids=["unclipped", "clipped"])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_fifty_steps_of_adamw_and_clipping_are_pytorchs(weight_decay, largest):
    ours, theirs = tiny(bias=True, norm="layernorm"), tiny(bias=True, norm="layernorm")
    matrices = [p for p in theirs.parameters() if p.ndim >= 2]
    vectors = [p for p in theirs.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    reference = torch.optim.AdamW(groups, betas=(0.8, 0.95), eps=1e-6)
    optimizer = AdamW(dict(ours.named_parameters()), (0.8, 0.95), 1e-6, weight_decay)
    generator = torch.Generator().manual_seed(0)
    for count in range(1, 51):
        for mine, other in zip(ours.parameters(), theirs.parameters()):
            mine.grad = torch.randn(mine.shape, generator=generator, dtype=torch.float64) * count**0.5
            other.grad = mine.grad.clone()
        for group in reference.param_groups:
            group["lr"] = 0.01 / count
        norm = torch.nn.utils.clip_grad_norm_(theirs.parameters(), largest).item()
        assert clip_gradients([p.grad for p in ours.parameters()], largest) == pytest.approx(norm, rel=1e-12)
        reference.step()
        optimizer.step(0.01 / count, count)
    assert_close(list(ours.parameters()), list(theirs.parameters()), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("betas", [(0.0, 0.0), (0.0, 0.9), (0.9, 0.0)], ids=str)
def test_betas_may_be_0_a_mean_without_a_memory(betas):
    ours, theirs = tiny(), tiny()
    reference = torch.optim.AdamW(theirs.parameters(), lr=0.01, betas=betas, eps=1e-8, weight_decay=0.0)
    optimizer = AdamW(dict(ours.named_parameters()), TrainConfig(steps=1, betas=betas).betas, 1e-8, weight_decay=0.0)
    generator = torch.Generator().manual_seed(0)
    for count in range(1, 4):
        for mine, other in zip(ours.parameters(), theirs.parameters()):
            mine.grad = torch.randn(mine.shape, generator=generator, dtype=torch.float64)
            other.grad = mine.grad.clone()
        reference.step()
        optimizer.step(0.01, count)
    assert_close(list(ours.parameters()), list(theirs.parameters()), rtol=1e-9, atol=1e-9)


def test_matrices_and_embeddings_are_decayed_and_norms_and_biases_are_not():
    # docs/known_bugs.md: decay on norms
    model = tiny(bias=True, norm="layernorm", position="learned")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    AdamW(dict(model.named_parameters()), (0.9, 0.95), 1e-8, weight_decay=0.1).step(lr=0.5, count=1)
    for name, parameter in model.named_parameters():
        decayed = not ("norm" in name or name.endswith("bias"))
        assert_close(parameter, before[name] * (0.95 if decayed else 1.0), msg=name)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=5), st.floats(1e-3, 1e3))
def test_clipping_keeps_the_direction_and_bounds_the_length(values, largest):
    gradients = [torch.tensor([value], dtype=torch.float64) for value in values]
    norm = clip_gradients(gradients, largest)
    clipped = torch.cat(gradients)
    assert norm == pytest.approx(torch.tensor(values, dtype=torch.float64).norm().item(), rel=1e-12)
    assert clipped.norm() <= largest * (1 + 1e-9)
    assert_close(clipped * max(1.0, norm / largest), torch.tensor(values, dtype=torch.float64))


@given(plans)
def test_the_learning_rate_rises_to_its_peak_then_falls_to_its_final_share(plan):
    assume(plan.warmup + 1 < plan.steps)
    rates = [learning_rate(step, plan) for step in range(plan.steps)]
    rise, fall = rates[: plan.warmup], rates[plan.warmup :]
    assert rise == [pytest.approx((step + 1) / plan.warmup) for step in range(plan.warmup)]
    assert fall[0] == 1
    assert all(later <= earlier + 1e-12 for earlier, later in zip(fall, fall[1:]))
    assert fall[-1] == pytest.approx(plan.final_lr)


@given(plans)
def test_every_step_has_a_learning_rate_between_0_and_the_peak(plan):
    assert all(0 <= learning_rate(step, plan) <= 1 + 1e-12 for step in range(plan.steps))


def test_linear_falls_evenly_and_cosine_slowly_at_both_ends():
    linear, cosine = (TrainConfig(steps=101, warmup=0, final_lr=0.0, schedule=name) for name in ("linear", "cosine"))
    assert [learning_rate(step, linear) for step in (25, 50, 75)] == pytest.approx([0.75, 0.5, 0.25])
    assert [learning_rate(step, cosine) for step in (25, 50, 75)] == pytest.approx([0.8536, 0.5, 0.1464], abs=1e-4)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_past_the_last_step_the_learning_rate_stays_where_it_ended(schedule):
    plan = TrainConfig(steps=10, warmup=2, schedule=schedule, final_lr=0.1)
    assert [learning_rate(step, plan) for step in (9, 10, 15, 1000)] == pytest.approx([0.1] * 4)
