"""A configuration either fits together or says what would."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigpt import GPTConfig, TrainConfig

SHAPE = dict(vocab_size=100, context_length=16, n_layers=2, n_heads=4, d_model=32)

BAD_SHAPES = [
    *[{name: 0} for name in [*SHAPE, "n_kv_heads", "d_ff"]],
    *[{name: "none such"} for name in ("norm", "position", "mlp", "kernels")],
    {"d_model": 33},  # not a multiple of n_heads
    {"n_kv_heads": 3},  # does not divide n_heads
    {"n_kv_heads": 8},
    {"d_model": 12},  # heads of odd size can't be turned in pairs
    {"dropout": 1.0},
    {"dropout": -0.1},
]


@pytest.mark.parametrize("change", BAD_SHAPES, ids=str)
def test_a_shape_that_does_not_fit_is_refused_with_its_value_and_the_rule(change):
    with pytest.raises(ValueError, match=r"must be .+") as error:
        GPTConfig(**SHAPE | change)
    assert repr(next(iter(change.values()))) in str(error.value) or change == {"d_model": 12}


def test_heads_of_odd_size_are_fine_for_learned_positions():
    assert GPTConfig(**SHAPE | dict(d_model=12, position="learned")).d_head == 3


@pytest.mark.parametrize(
    "change",
    [
        *[{name: 0} for name in ("steps", "micro_batches", "lr", "muon_lr", "clip", "eps")],
        *[{name: float("nan")} for name in ("lr", "muon_lr", "clip", "eps", "final_lr", "weight_decay")],
        *[{name: -1} for name in ("warmup", "final_lr", "weight_decay")],
        *[{name: "none such"} for name in ("schedule", "optimizer", "precision")],
        {"betas": (0.9, 1.0)},
        {"betas": (-0.1, 0.9)},
    ],
    ids=str,
)
def test_a_training_number_out_of_range_is_refused_by_name(change):
    (name,) = change
    with pytest.raises(ValueError, match=f"^{name}=.*: must be "):
        TrainConfig(**{"steps": 10} | change)


@given(st.integers(1, 1000).map(lambda n: 4 * n))
def test_the_mlp_is_four_times_as_wide_or_for_swiglu_two_thirds_of_that_rounded_up_to_32s(width):
    gelu, swiglu = (GPTConfig(**SHAPE | dict(d_model=width, mlp=mlp, position="learned")) for mlp in ("gelu", "swiglu"))
    assert gelu.d_ff == 4 * width
    assert swiglu.d_ff % 32 == 0
    assert 0 <= swiglu.d_ff - 8 * width / 3 < 32


def test_key_value_heads_default_to_one_for_each_head():
    assert GPTConfig(**SHAPE).n_kv_heads == 4


@pytest.mark.parametrize("preset", [GPTConfig.toy, GPTConfig.gpt2, GPTConfig.llama])
def test_presets_take_changes_and_stay_as_they_are(preset):
    config = preset(vocab_size=77, dropout=0.25)
    assert (config.vocab_size, config.dropout) == (77, 0.25)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.vocab_size = 78


def test_the_llama_preset_is_llama_3_8b():
    ours = GPTConfig.llama()
    C, D, wide = ours.d_model, ours.d_head, ours.d_ff
    layer = 2 * C * ours.n_heads * D + 2 * C * ours.n_kv_heads * D + 3 * C * wide + 2 * C
    assert 2 * ours.vocab_size * C + ours.n_layers * layer + C == 8_030_261_248  # as Meta's model card counts
    assert (ours.context_length, ours.rope_theta, ours.norm_eps, ours.bias) == (8192, 500_000.0, 1e-5, False)
