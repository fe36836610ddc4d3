"""A configuration either fits together or says what would."""

import dataclasses
import inspect

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minigpt import GPT, Batch, GPTConfig, Step, TrainConfig, token_batches
from scripts import sizes
from sft import Example, Message, example_batches, fine_tune

SHAPE = dict(vocab_size=100, context_length=16, n_layers=2, n_heads=4, d_model=32)

BAD_SHAPES = [
    *[{name: 0} for name in [*SHAPE, "n_kv_heads", "d_ff"]],
    *[{name: "none such"} for name in ("norm", "position", "mlp")],
    {"d_model": 33},  # not a multiple of n_heads
    {"n_kv_heads": 3},  # does not divide n_heads
    {"n_kv_heads": 8},
    {"d_model": 12},  # heads of odd size can't be turned in pairs
    *[{name: 1.5} for name in [*SHAPE, "n_kv_heads", "d_ff"]],
    *[{name: bad} for name in ("norm_eps", "rope_theta") for bad in (0, -1.0, float("inf"), float("nan"), "1")],
    {"n_layers": True},
    {"bias": 1},
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
        *[{name: float("inf")} for name in ("lr", "muon_lr", "clip", "eps", "weight_decay")],
        *[{name: 1.5} for name in ("steps", "micro_batches", "warmup", "seed")],
        *[{name: True} for name in ("steps", "micro_batches", "warmup", "seed")],
        {"seed": -1},
        {"final_lr": 2.0},
        {"lr": "fast"},
        {"betas": (0.9,)},
        {"betas": (0.9, 1.0)},
        {"betas": (-0.1, 0.9)},
    ],
    ids=str,
)
def test_a_training_number_out_of_range_is_refused_by_name(change):
    (name,) = change
    with pytest.raises(ValueError, match=f"^{name}=.*: must be "):
        TrainConfig(**{"steps": 10} | change)


@pytest.mark.parametrize(
    "change",
    [
        {"betas": (0, 0.0)},
        *[{name: 0} for name in ("warmup", "weight_decay", "final_lr", "seed")],
        {"final_lr": 1.0},
        *[{name: 1} for name in ("steps", "micro_batches")],
    ],
    ids=str,
)
def test_a_training_number_at_the_end_of_its_range_is_taken(change):
    (name,) = change
    assert getattr(TrainConfig(**{"steps": 10} | change), name) == change[name]


@given(st.integers(1, 1000).map(lambda n: 4 * n))
def test_the_mlp_is_four_times_as_wide_or_for_swiglu_two_thirds_of_that_rounded_up_to_32s(width):
    gelu, swiglu = (GPTConfig(**SHAPE | dict(d_model=width, mlp=mlp, position="learned")) for mlp in ("gelu", "swiglu"))
    assert gelu.d_ff == 4 * width
    assert swiglu.d_ff % 32 == 0
    assert 0 <= swiglu.d_ff - 8 * width / 3 < 32


def test_key_value_heads_default_to_one_for_each_head():
    assert GPTConfig(**SHAPE).n_kv_heads == 4


def test_a_run_that_says_only_how_long_it_is_has_these_numbers():
    ours = dict(lr=1e-3, warmup=20, schedule="linear", final_lr=0.02, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    ours |= dict(clip=1.0, optimizer="adamw", muon_lr=0.02, micro_batches=1, precision="fp32", seed=0)
    assert dataclasses.asdict(TrainConfig(steps=7)) == {"steps": 7, **ours}
    assert inspect.signature(fine_tune).parameters["batch_size"].default == 32
    assert inspect.signature(token_batches).parameters["seed"].default == 0
    assert inspect.signature(example_batches).parameters["seed"].default == 0


@pytest.mark.parametrize(
    "value, name",
    [(TrainConfig(steps=1), "steps"), (Message("user", "Hi"), "content"), (Example([]), "source"),
     (Batch.from_rows([[1]], [[2]]), "inputs"), (Step(1, 1.0, 1.0, 1.0, 1, 1.0), "loss")],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_values_stay_as_they_were_made(value, name):
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, name, None)


@pytest.mark.parametrize("preset", [GPTConfig.toy, GPTConfig.gpt2, GPTConfig.llama])
def test_presets_take_changes_and_stay_as_they_are(preset):
    config = preset(vocab_size=77, dropout=0.25)
    assert (config.vocab_size, config.dropout) == (77, 0.25)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.vocab_size = 78


@pytest.mark.claim("P6")
@pytest.mark.parametrize("name, published", sizes.PUBLISHED.items())
def test_public_models_have_their_published_number_of_parameters(name, published):
    assert sizes.parameters(sizes.config_of(name)) == published  # on the meta device: 405 B take no memory


@pytest.mark.parametrize("preset, size", [(GPTConfig.gpt2, "8B"), (GPTConfig.llama, "124M"), (GPTConfig.llama, "")])
def test_a_size_that_nobody_published_is_refused_with_those_that_are(preset, size):
    with pytest.raises(ValueError, match=f"^size='{size}': must be .* or "):
        preset(size)


@pytest.mark.claim("P4")
def test_training_405b_takes_more_than_any_gpu_has():
    needed = sizes.training("Llama 3 405B")
    assert needed["weights"] > 10 * sizes.GPU_BYTES
    state = sum(needed[what] for what in ("weights", "gradients", "optimizer state"))
    assert state == 18 * 405_853_388_800  # 2 + 4 + 12 bytes a parameter
    assert needed["activations of a batch"] > 100 * state
    assert needed["FLOPs in all"] == pytest.approx(3.8e25, rel=0.01)  # as its report says, arXiv:2407.21783


@pytest.mark.claim("P4")
@pytest.mark.parametrize("mlp", ["swiglu", "gelu"])
def test_activations_on_paper_are_those_that_autograd_keeps(mlp):
    """Beside them it keeps little: a norm's two figures a token, attention's probabilities of a short text."""
    config = GPTConfig(**SHAPE | dict(mlp=mlp, n_kv_heads=2, d_ff=96, norm="layernorm", position="learned", bias=True))
    saved = {}
    model = GPT(config)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def keep(tensor):
        if tensor.untyped_storage().data_ptr() not in weights:
            saved[tensor.untyped_storage().data_ptr()] = (tensor, tensor.untyped_storage().nbytes() // 4)
        return tensor

    x = model.token_embedding(torch.arange(4)[None]).detach().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        for block in model.blocks:
            x = block(x, torch.arange(4), {}, 0.0)
    per_token = sum(numbers for _, numbers in saved.values()) / 4
    assert 2 * per_token == pytest.approx(sizes.activation_bytes(config), rel=0.15)


def test_the_llama_preset_is_llama_3_8b():
    ours = GPTConfig.llama()
    C, D, wide = ours.d_model, ours.d_head, ours.d_ff
    layer = 2 * C * ours.n_heads * D + 2 * C * ours.n_kv_heads * D + 3 * C * wide + 2 * C
    assert 2 * ours.vocab_size * C + ours.n_layers * layer + C == 8_030_261_248  # as Meta's model card counts
    assert (ours.context_length, ours.rope_theta, ours.norm_eps, ours.bias) == (8192, 500_000.0, 1e-5, False)
