"""The NumPy twin against its model: autograd for every gradient, central differences for each layer, text for text."""

import ast
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import minigpt
from decoding import beam_search, generate, uncached
from minigpt import GPT, IGNORE, Batch, GPTConfig, TrainConfig, load, numpy_gpt, save
from minigpt.formulas import cross_entropy
from minigpt.numpy_gpt import NumpyGPT

SMALL = dict(vocab_size=11, context_length=12, n_layers=2, n_heads=4, n_kv_heads=2, d_model=16, d_ff=20)
quick = settings(max_examples=100, deadline=None)


def make_model(seed: int = 0, **changes) -> GPT:
    """A float64 model of large random weights, norms included, so that no term of a gradient is too small to see."""
    torch.manual_seed(seed)
    model = GPT(GPTConfig(**SMALL | changes)).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, mean=float(parameter.ndim == 1), std=0.4)
    return model


def assert_close(found, expected, tolerance: float, what: str) -> None:
    """Equal within a share of the largest entry; below 1e-13 is rounding."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape, what
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max() + 1e-13, what


@st.composite
def shapes(draw) -> tuple[GPT, torch.Tensor, torch.Tensor]:
    """A model of any shape, ids with repeats, and targets of which at least one is learnt."""
    heads, groups, half = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    B, T, V = draw(st.integers(1, 3)), draw(st.integers(1, 6)), draw(st.integers(2, 9))
    seed = draw(st.integers(0, 999))
    model = make_model(
        seed, vocab_size=V, context_length=T, n_layers=draw(st.integers(1, 3)), n_heads=heads * groups,
        n_kv_heads=heads, d_model=heads * groups * half * 2, d_ff=draw(st.integers(1, 9)),
        rope_theta=draw(st.sampled_from([3.0, 10_000.0])), norm_eps=draw(st.sampled_from([1e-5, 0.1])),
    )  # fmt: skip
    ids, targets = torch.randint(V, (2, B, T))
    ignored = torch.rand(B, T) < draw(st.sampled_from([0.0, 0.3, 0.9]))
    ignored.view(-1)[draw(st.integers(0, B * T - 1))] = False
    return model, ids, targets.masked_fill(ignored, IGNORE)


@given(shapes())
@quick
def test_logits_loss_and_every_gradient_equal_autograds(case):
    model, ids, targets = case
    twin = NumpyGPT.from_torch(model)
    expected_logits = model(ids)
    expected_loss = cross_entropy(expected_logits, targets, IGNORE)
    expected_loss.backward()
    logits, cache = twin.forward(ids.numpy())
    loss, of_loss = numpy_gpt.cross_entropy(logits, targets.numpy())
    gradients = twin.backward(numpy_gpt.cross_entropy_backward(of_loss), cache)
    assert_close(logits, expected_logits.detach(), 1e-9, "logits")
    assert loss == pytest.approx(expected_loss.item(), rel=1e-9)
    assert gradients.keys() == dict(model.named_parameters()).keys()
    for name, parameter in model.named_parameters():
        assert_close(gradients[name], parameter.grad, 1e-9, name)


def slopes(loss, x: np.ndarray, h: float = 1e-5) -> np.ndarray:
    """d loss / d x by central differences: each entry of x, which is put back, a little up and a little down."""
    result = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        kept, x[i] = x[i], x[i] + h
        above = loss()
        x[i] = kept - h
        result[i] = (above - loss()) / (2 * h)
        x[i] = kept
    return result


def check_layer(forward, backward, x: np.ndarray, weights: list[np.ndarray]) -> None:
    """A layer's backward pass against central differences of sum(y · dy), for x and for each of its weights."""
    y, cache = forward(x, weights)
    dy = np.random.default_rng(7).normal(size=y.shape)
    dx, gradients = backward(dy, cache)

    def loss() -> float:
        return float((forward(x, weights)[0] * dy).sum())

    assert_close(dx, slopes(loss, x), 1e-7, "dx")
    for i, (weight, gradient) in enumerate(zip(weights, gradients, strict=True)):
        assert_close(gradient, slopes(loss, weight), 1e-7, f"weight {i}")


def arrays(*sizes: tuple[int, ...]) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [rng.normal(size=size) for size in sizes]


def shared_by_blocks(B: int, T: int, D: int) -> tuple:
    config = GPTConfig(**{**SMALL, "d_model": 4 * D, "rope_theta": 5.0})
    return B, D, *numpy_gpt.rotary(T, config, np.float64)


def test_rms_norms_backward_pass_is_its_slope():
    x, w = arrays((3, 5), (5,))
    check_layer(
        lambda x, weights: numpy_gpt.rms_norm(x, *weights, eps=0.3),
        lambda dy, cache: (lambda dx, dw: (dx, [dw]))(*numpy_gpt.rms_norm_backward(dy, cache)), x, [w],
    )  # fmt: skip


def test_rotates_backward_pass_is_its_slope():
    _, _, cos, sin = shared_by_blocks(2, 3, 4)
    (x,) = arrays((2, 2, 3, 4))
    check_layer(
        lambda x, _: (numpy_gpt.rotate(x, cos, sin), ()),
        lambda dy, _: (numpy_gpt.rotate(dy, cos, -sin), []), x, [],
    )  # fmt: skip


@pytest.mark.parametrize("H, K", [(1, 1), (2, 2), (4, 2), (3, 1)])
def test_attentions_backward_pass_is_its_slope(H, K):
    B, T, D, C = 2, 3, 2, H * 2
    shared = shared_by_blocks(B, T, D)
    x, *weights = arrays((B * T, C), (C, C), (K * D, C), (K * D, C), (C, C))
    check_layer(lambda x, w: numpy_gpt.attention(x, w, shared), numpy_gpt.attention_backward, x, weights)


def test_mlps_backward_pass_is_its_slope():
    x, *weights = arrays((4, 3), (5, 3), (5, 3), (3, 5))
    check_layer(numpy_gpt.mlp, numpy_gpt.mlp_backward, x, weights)


def test_a_blocks_backward_pass_is_its_slope():
    shared = shared_by_blocks(B=1, T=3, D=2)
    x, *weights = arrays((3, 4), (4,), (4, 4), (2, 4), (2, 4), (4, 4), (4,), (5, 4), (5, 4), (4, 5))
    forward = lambda x, weights: numpy_gpt.block(x, weights, 0.1, shared)
    check_layer(forward, numpy_gpt.block_backward, x, weights)


def test_cross_entropys_backward_pass_is_its_slope():
    (logits,) = arrays((2, 3, 5))
    targets = np.array([[1, IGNORE, 4], [0, 0, IGNORE]])
    _, cache = numpy_gpt.cross_entropy(logits, targets)
    expected = slopes(lambda: numpy_gpt.cross_entropy(logits, targets)[0], logits)
    assert_close(numpy_gpt.cross_entropy_backward(cache), expected, 1e-7, "dlogits")


def test_the_models_backward_pass_is_its_slope():
    """Central differences through everything, the tied embedding's two uses and a repeated token included."""
    twin = NumpyGPT.from_torch(make_model(n_layers=1, d_model=8, d_ff=6, vocab_size=5))
    ids, targets = np.array([[1, 3, 1], [4, 4, 0]]), np.array([[3, 1, IGNORE], [4, IGNORE, 2]])
    logits, cache = twin.forward(ids)
    _, of_loss = numpy_gpt.cross_entropy(logits, targets)
    gradients = twin.backward(numpy_gpt.cross_entropy_backward(of_loss), cache)
    for name, parameter in twin.parameters.items():
        expected = slopes(lambda: numpy_gpt.cross_entropy(twin.forward(ids)[0], targets)[0], parameter)
        assert_close(gradients[name], expected, 1e-6, name)


def gradients_of(twin: NumpyGPT, inputs, targets) -> tuple[float, dict[str, np.ndarray]]:
    logits, cache = twin.forward(np.array(inputs))
    loss, of_loss = numpy_gpt.cross_entropy(logits, np.array(targets))
    return loss, twin.backward(numpy_gpt.cross_entropy_backward(of_loss), cache)


@pytest.mark.parametrize("padding", [0, 7])
def test_padding_adds_neither_loss_nor_gradient(padding):
    twin = NumpyGPT.from_torch(make_model())
    loss, gradients = gradients_of(twin, [[3, 1, 4]], [[1, 4, 1]])
    padded_loss, padded = gradients_of(twin, [[3, 1, 4, padding, padding]], [[1, 4, 1, IGNORE, IGNORE]])
    assert padded_loss == pytest.approx(loss, rel=1e-12)
    for name, gradient in gradients.items():
        assert_close(padded[name], gradient, 1e-12, name)
    _, of_loss = numpy_gpt.cross_entropy(twin.forward(np.array([[3, 1]]))[0], np.array([[1, IGNORE]]))
    dlogits = numpy_gpt.cross_entropy_backward(of_loss)
    assert dlogits[0, 0].any() and not dlogits[0, 1].any()


def random_batches(step: int) -> Batch:
    """Rows of unequal length, some of whose targets are ignored."""
    rng = np.random.default_rng(step)
    rows = [rng.integers(SMALL["vocab_size"], size=size) for size in rng.integers(3, 9, size=4)]
    targets = [np.where(rng.random(len(row) - 1) < 0.2, IGNORE, row[1:]) for row in rows]
    targets[0][0] = rows[0][1]
    return Batch.from_rows([row[:-1] for row in rows], targets)


@pytest.mark.parametrize("schedule, clip", [("linear", 0.5), ("cosine", 1e9)])
def test_fifty_steps_end_at_pytorchs_parameters(schedule, clip):
    """Clipping, decay, moments and schedule: the same steps, and the same parameters at their end."""
    model = make_model()
    twin = NumpyGPT.from_torch(model)
    config = TrainConfig(steps=50, lr=0.01, warmup=5, schedule=schedule, clip=clip, weight_decay=0.3)
    expected = list(minigpt.train(model, random_batches, config))
    steps = list(numpy_gpt.train(twin, random_batches, config))
    assert clip > 1 or sum(step.grad_norm > clip for step in expected) > 10, "clipping never happened"
    for step, like in zip(steps, expected, strict=True):
        assert (step.step, step.lr, step.tokens) == (like.step, like.lr, like.tokens)
        assert (step.loss, step.grad_norm) == pytest.approx((like.loss, like.grad_norm), rel=1e-8)
        assert step.seconds > 0
    for name, parameter in model.named_parameters():
        assert np.abs(twin.parameters[name] - parameter.detach().numpy()).max() < 1e-8, name


def test_scores_logits_and_gates_that_exp_cannot_hold_are_no_trouble():
    """exp overflows beyond 88 in float32; here scores, gates and logits reach thousands: PyTorch's loss comes out."""
    model = make_model().float()
    for parameter in model.parameters():
        parameter.data *= 20
    twin, (ids, targets) = NumpyGPT.from_torch(model), torch.randint(SMALL["vocab_size"], (2, 3, 8))
    expected = cross_entropy(model(ids), targets, IGNORE).item()
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        loss, gradients = gradients_of(twin, ids, targets)
    assert expected > 1000 and loss == pytest.approx(expected, rel=1e-3)
    assert all(np.isfinite(gradient).all() for gradient in gradients.values())


def test_float32_stays_float32():
    """Nothing in the twin widens its numbers unasked: it would halve the speed and hide in every comparison."""
    twin = NumpyGPT.from_torch(make_model().float())
    ids = np.array([[1, 2, 2]])
    logits, cache = twin.forward(ids)
    _, of_loss = numpy_gpt.cross_entropy(logits, ids)
    dlogits = numpy_gpt.cross_entropy_backward(of_loss)
    assert {array.dtype for array in (logits, dlogits, *twin.backward(dlogits, cache).values())} == {np.dtype("f4")}
    assert len(list(numpy_gpt.train(twin, random_batches, TrainConfig(steps=2)))) == 2
    assert {parameter.dtype for parameter in twin.parameters.values()} == {np.dtype("f4")}
    assert twin(torch.tensor([[1, 2]])).dtype == torch.float32


def test_decoding_drives_the_twin_as_it_drives_pytorch():
    """Greedy, drawn and beam-searched texts of unequal prompts, up to a full window: the same ids."""
    model = make_model(context_length=20).eval()
    twin, prompts = uncached(NumpyGPT.from_torch(model)), [[1, 2, 3, 4, 5], [6], [7, 8]]
    for knobs in (dict(temperature=0), dict(temperature=0, eos_id=[2, 3]), dict(top_p=0.9, seed=0)):
        found, expected = (generate(m, prompts, max_new_tokens=30, **knobs) for m in (twin, model))
        assert [(each.ids, each.stop) for each in found] == [(each.ids, each.stop) for each in expected]
        assert [each.logprob for each in found] == pytest.approx([each.logprob for each in expected])
    found, expected = (beam_search(m, [1, 2], width=3, max_new_tokens=9, eos_id=4) for m in (twin, model))
    assert [each.ids for each in found] == [each.ids for each in expected]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_weights_go_both_ways_and_through_a_run_directory(dtype, tmp_path):
    model = make_model(rope_theta=500.0, norm_eps=1e-6).to(dtype)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    twin = NumpyGPT.from_torch(model)
    back = twin.to_torch()
    assert back.config == model.config and not back.training
    assert back.head.weight is back.token_embedding.weight
    save(tmp_path, back, None)
    loaded = NumpyGPT.from_torch(load(tmp_path)[0])
    for name, parameter in back.named_parameters():
        assert torch.equal(parameter, before[name].to(parameter.dtype)), name
        assert np.array_equal(loaded.parameters[name], twin.parameters[name]), name
        twin.parameters[name] += 1  # a copy: neither model moves along
    for m in (model, back):
        assert all(torch.equal(parameter.to(dtype), before[name]) for name, parameter in m.named_parameters())


@pytest.mark.parametrize(
    "switch", [{"norm": "layernorm"}, {"position": "learned"}, {"mlp": "gelu"}, {"bias": True}, {"dropout": 0.1},
               {"tie_embeddings": False}],
)  # fmt: skip
def test_a_model_that_the_twin_does_not_have_is_refused_by_the_switchs_name(switch):
    (name,) = switch
    with pytest.raises(ValueError, match=f"^{name}="):
        NumpyGPT.from_torch(make_model(**switch))


@pytest.mark.parametrize("switch", [{"optimizer": "muon"}, {"precision": "bf16"}, {"micro_batches": 2}])
def test_a_training_switch_that_the_twin_does_not_have_is_refused(switch):
    (name,) = switch
    with pytest.raises(ValueError, match=f"^{name}="):
        next(numpy_gpt.train(NumpyGPT.from_torch(make_model()), random_batches, TrainConfig(steps=1, **switch)))


def test_too_many_tokens_are_refused_and_a_loss_that_is_not_finite_leaves_the_weights_alone():
    twin = NumpyGPT.from_torch(make_model())
    with pytest.raises(ValueError, match="13 tokens do not fit in the context of 12"):
        twin.forward(np.zeros((1, 13), int))
    before = {name: parameter.copy() for name, parameter in twin.parameters.items()}
    nothing_learnt = lambda step: Batch.from_rows([[1, 2]], [[IGNORE, IGNORE]])
    with np.errstate(all="ignore"), pytest.warns(RuntimeWarning), pytest.raises(FloatingPointError, match="step 1"):
        next(numpy_gpt.train(twin, nothing_learnt, TrainConfig(steps=1)))
    assert all(np.array_equal(twin.parameters[name], before[name]) for name in before)


def test_of_torch_the_twin_uses_only_the_doors():
    """No tensor arithmetic, no autograd: torch comes in where weights, batches and logits change hands."""
    source = Path(numpy_gpt.__file__).read_text(encoding="utf-8")
    assert set(re.findall(r"\btorch\.(\w+)", source)) <= {"tensor", "from_numpy"}
    assert not re.search(r"\.backward\(\)|requires_grad|functional", source.split('"""', 2)[2])


def test_the_twin_imports_torch_only_where_it_is_handed_something_of_torch():
    tree = ast.parse(Path(numpy_gpt.__file__).read_text(encoding="utf-8"))
    at_import = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert not [
        name for node in at_import for name in ast.unparse(node).split() if name in ("torch", ".loop", ".model")
    ]
    assert numpy_gpt.IGNORE == IGNORE
