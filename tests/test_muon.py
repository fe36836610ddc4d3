"""Muon moves every direction of a matrix equally far, and never turns one."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from minigpt.fast.muon import Muon, orthogonalise


def matrices(count: int, rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, rows, columns, generator=generator, dtype=torch.float64)


@given(
    st.sampled_from([(16, 64), (64, 16), (8, 100), (128, 40)]),
    st.integers(0, 2**32),
    st.sampled_from([1e-4, 1.0, 1e4]),
)
def test_all_singular_values_come_out_near_one_whatever_the_scale(shape, seed, scale):
    singular = torch.linalg.svdvals(orthogonalise(scale * matrices(3, *shape, seed=seed)))
    assert singular.min() > 0.6 and singular.max() < 1.3


def test_small_singular_values_are_lifted_too():
    left, right = (torch.linalg.qr(matrix)[0] for matrix in matrices(2, 6, 6))
    skewed = left @ torch.tensor([1.0, 0.8, 0.4, 0.2, 0.1, 0.02], dtype=torch.float64).diag() @ right
    singular = torch.linalg.svdvals(orthogonalise(skewed[None]))
    assert singular.min() > 0.6 and singular.max() < 1.3


@given(st.sampled_from([(8, 8), (6, 20), (20, 6)]), st.integers(0, 2**32))
def test_directions_are_those_of_the_singular_value_decomposition(shape, seed):
    matrix = matrices(1, *shape, seed=seed)
    left, _, right = torch.linalg.svd(matrix[0], full_matrices=False)
    turned = left.mT @ orthogonalise(matrix)[0] @ right.mT  # diagonal when no direction has changed
    assert_close(turned, turned.diagonal().diag(), rtol=0, atol=1e-6)
    assert (turned.diagonal() > 0).all()


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (7, 7)])
def test_a_stack_is_treated_as_its_matrices_one_by_one(shape):
    stack = matrices(4, *shape)
    assert_close(orthogonalise(stack), torch.cat([orthogonalise(matrix[None]) for matrix in stack]))
    assert_close(orthogonalise(stack.mT), orthogonalise(stack).mT)


def test_a_gradient_of_zero_moves_nothing():
    assert orthogonalise(torch.zeros(2, 3, 4)).count_nonzero() == 0


def parameters(**shapes: tuple[int, int]) -> dict[str, torch.nn.Parameter]:
    made = {name: torch.nn.Parameter(torch.zeros(shape, dtype=torch.float64)) for name, shape in shapes.items()}
    for seed, parameter in enumerate(made.values()):
        parameter.grad = matrices(1, *parameter.shape, seed=seed)[0]
    return made


def test_the_first_step_has_length_lr_and_more_for_tall_matrices():
    made = parameters(wide=(4, 16), tall=(18, 8))
    Muon(made, dtype=torch.float64).step(lr=0.1, count=1)
    for name, factor in (("wide", 1.0), ("tall", 1.5)):
        expected = -0.1 * factor * orthogonalise(made[name].grad[None])[0]
        assert_close(made[name].detach(), expected, rtol=1e-5, atol=1e-8)


def test_matrices_that_share_a_shape_move_as_they_do_alone():
    together = parameters(a=(4, 6), b=(4, 6), c=(6, 4))
    alone = parameters(a=(4, 6), b=(4, 6), c=(6, 4))
    stacked, single = Muon(together, dtype=torch.float64), [Muon({n: p}, dtype=torch.float64) for n, p in alone.items()]
    for count in range(1, 4):
        for optimizer in (stacked, *single):
            optimizer.step(0.1, count)
    assert_close([p.detach() for p in together.values()], [p.detach() for p in alone.values()])


def test_products_in_bfloat16_take_nearly_the_same_step():
    exact, quick = parameters(w=(24, 40)), parameters(w=(24, 40))
    Muon(exact, dtype=torch.float64).step(0.1, 1), Muon(quick, dtype=torch.bfloat16).step(0.1, 1)
    apart = (exact["w"] - quick["w"]).norm() / exact["w"].norm()
    assert 0 < apart < 0.1


def test_momentum_is_a_running_mean_and_the_step_looks_one_ahead():
    made = parameters(w=(3, 5))
    optimizer, gradients = Muon(made, momentum=0.8, dtype=torch.float64), matrices(3, 3, 5, seed=9)
    mean, weight = torch.zeros(3, 5, dtype=torch.float64), torch.zeros(3, 5, dtype=torch.float64)
    for count, gradient in enumerate(gradients, start=1):
        made["w"].grad = gradient.clone()
        optimizer.step(0.1, count)
        mean = 0.8 * mean + 0.2 * gradient
        weight = weight - 0.1 * orthogonalise((0.2 * gradient + 0.8 * mean)[None])[0]
    assert_close(made["w"].detach(), weight)
