"""Each sampler against its exact distribution, by Pearson's chi-square test.

The seeds are fixed, so a test passes always or never. Had they been fresh, a right sampler would fail a test once in
ten thousand times: ALPHA. Every expected count is at least 5 (rarer tokens are counted together).
"""

import math

import pytest
import torch
from trees import Bigram

from decoding import draw, generate, min_p, repetition_penalty, temperature, top_k, top_p
from plain_or_fast import Switch

pytestmark = pytest.mark.usefixtures("edition")
ALPHA = 1e-4
DRAWS = 10_000


@pytest.fixture
def draws(edition) -> int:
    """How many prompts: the plain edition continues them one after the other."""
    return DRAWS if Switch.fast else DRAWS // 10


def chi_square_p(counts: torch.Tensor, expected: torch.Tensor) -> float:
    """How probable it is that counts as far from the expected ones, or farther, come up by chance.

    The tail of the chi-square distribution with d degrees of freedom at x is the regularised gamma Q(d / 2, x / 2).
    """
    assert counts[expected == 0].sum() == 0, "a token of probability 0 was drawn"
    rare = expected < 5
    counts = torch.cat([counts[~rare], counts[rare].sum()[None]]).double()
    expected = torch.cat([expected[~rare], expected[rare].sum()[None]])
    counts, expected = counts[expected > 0], expected[expected > 0]
    x = ((counts - expected) ** 2 / expected).sum()
    d = len(expected) - 1
    return torch.special.gammaincc(torch.tensor(d / 2).double(), x / 2).item() if d else 1.0


def test_the_p_value_is_that_of_the_tables():
    """3.841 is the 5 % point for 1 degree of freedom, 16.919 for 9."""
    for d, x in ((1, 3.841), (9, 16.919)):
        expected = torch.full((d + 1,), 1000.0).double()
        counts = expected.clone()
        counts[0], counts[1] = counts[0] + math.sqrt(x * 500), counts[1] - math.sqrt(x * 500)
        assert chi_square_p(counts, expected) == pytest.approx(0.05, rel=1e-3)


TABLE = (2 * torch.randn(12, 12, generator=torch.Generator().manual_seed(5), dtype=torch.float64)).round(decimals=1)
SAMPLERS = {
    "multinomial (G6)": ({}, lambda x: x),
    "temperature (G9)": ({"temperature": 1.7}, lambda x: temperature(x, 1.7)),
    "top-k (G7)": ({"top_k": 4}, lambda x: top_k(x, 4)),
    "top-p (G8)": ({"top_p": 0.88}, lambda x: top_p(x, 0.88)),
    "min-p": ({"min_p": 0.1}, lambda x: min_p(x, 0.1)),
    "all": (
        {"temperature": 1.4, "top_k": 9, "top_p": 0.9, "min_p": 0.02},
        lambda x: top_p(min_p(top_k(temperature(x, 1.4), 9), 0.02), 0.9),
    ),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_first_tokens(name, draws):
    """Many rows of one batch, each with its own generator: seeds next to each other give independent draws."""
    settings, apply = SAMPLERS[name]
    drawn = generate(Bigram(TABLE), [[3]] * draws, max_new_tokens=1, seed=0, **settings)
    counts = torch.bincount(torch.tensor([one.ids[0] for one in drawn]), minlength=12)
    assert chi_square_p(counts, draws * apply(TABLE[3]).softmax(-1)) > ALPHA


@pytest.mark.parametrize("name", SAMPLERS)
def test_two_step_sequences(name, draws):
    """Pairs come up as often as the product of their steps says: the second draw doesn't hang on the first."""
    settings, apply = SAMPLERS[name]
    drawn = generate(Bigram(TABLE), [[3]] * draws, max_new_tokens=2, seed=1, **settings)
    pairs = torch.tensor([12 * one.ids[0] + one.ids[1] for one in drawn])
    first, second = apply(TABLE[3]).softmax(-1), apply(TABLE).softmax(-1)
    assert chi_square_p(torch.bincount(pairs, minlength=144), draws * (first[:, None] * second).flatten()) > ALPHA


def test_one_long_row(draws):
    """One generator drawn from again and again, instead of many drawn from once."""
    flat = Bigram(TABLE[3].expand(12, 12))
    [one] = generate(flat, [[3]], max_new_tokens=draws // 2, top_p=0.95, seed=0)
    expected = draws // 2 * top_p(TABLE[3], 0.95).softmax(-1)
    assert chi_square_p(torch.bincount(torch.tensor(one.ids), minlength=12), expected) > ALPHA


def test_the_penalty_shifts_the_distribution(draws):
    settings = {"repetition_penalty": 3.0, "max_new_tokens": 1, "seed": 2}
    drawn = generate(Bigram(TABLE), [[1, 2, 3]] * draws, **settings)
    counts = torch.bincount(torch.tensor([one.ids[0] for one in drawn]), minlength=12)
    expected = draws * repetition_penalty(TABLE[3], [1, 2, 3], 3.0).softmax(-1)
    assert chi_square_p(counts, expected) > ALPHA


def test_the_test_would_notice():
    """A distribution that is off by a hundredth in one token is told apart: the test has power, not only calm."""
    x = torch.full((8,), 0.125, dtype=torch.float64).log()
    off = torch.full((8,), 0.125, dtype=torch.float64)
    off[0], off[1] = 0.135, 0.115
    uniforms = torch.rand(4 * DRAWS, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    counts = torch.bincount(draw(x.expand(len(uniforms), 8), uniforms), minlength=8)
    assert chi_square_p(counts, len(uniforms) * x.exp()) > ALPHA > chi_square_p(counts, len(uniforms) * off)
