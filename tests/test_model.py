"""The transformer: nothing from the future reaches a logit, the cache changes none, the first bet is on nothing."""

import math
from unittest import mock

import pytest
import torch
from conftest import SWITCHES, once, tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from decoding import beam_search, generate
from minigpt import GPT, GPTConfig, formulas
from minigpt.formulas import cross_entropy
from plain_or_fast import plain

pytestmark = pytest.mark.usefixtures("edition")


def random_ids(model: GPT, *shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(model.config.vocab_size, shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.claim("P2")
@given(st.sampled_from(SWITCHES), st.integers(1, 16), st.data())
def test_changing_a_token_changes_no_logit_before_it(switches, length, data):
    model = tiny(**switches)
    ids, place = random_ids(model, 2, length), data.draw(st.integers(0, length - 1))
    changed = ids.clone()
    changed[:, place] = (ids[:, place] + data.draw(st.integers(1, 28))) % 29
    before, after = model(ids), model(changed)
    assert before.shape == (2, length, 29)
    assert torch.equal(before[:, :place], after[:, :place])
    assert not torch.isclose(before[:, place:], after[:, place:]).all(-1).any()  # and each later one sees it


def logits_and_gradients(model: GPT, ids: torch.Tensor) -> list[torch.Tensor]:
    model.zero_grad()
    logits = model(ids)
    logits.square().sum().backward()
    return [logits, *[parameter.grad for parameter in model.parameters()]]


@once
def test_plain_and_fast_give_the_same_logits_and_gradients(switches):
    model = tiny(**switches)
    ids = random_ids(model, 2, 9)
    fast = logits_and_gradients(model, ids)
    with plain():
        assert_close(logits_and_gradients(model, ids), fast, rtol=1e-9, atol=1e-9)


def both_engines(small: int):
    """The largest model that NumPy reads: 0 leaves every model to PyTorch."""
    return mock.patch("minigpt.fast.engine.SMALL", small)


@once
@pytest.mark.parametrize("small", [0, 10**9], ids=["PyTorch", "NumPy"])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-9), (torch.float32, 1e-5)], ids=str)
@given(st.sampled_from(SWITCHES), st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(0, 999), st.data())
def test_plain_and_fast_decoding_give_the_same_logits(small, dtype, tolerance, switches, lengths, seed, data):
    model = tiny(dtype, seed=seed, **switches)
    prompts = [random_ids(model, length, seed=i).tolist() for i, length in enumerate(lengths)]
    orders = data.draw(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4), max_size=3))

    def decode() -> list[torch.Tensor]:
        logits, state = model.prefill(prompts)
        found, rows = [logits], len(prompts)
        for turn, order in enumerate(orders):
            state = model.reorder(state, torch.tensor([row % rows for row in order]))
            rows = len(order)
            logits, state = model.step(state, random_ids(model, rows, seed=turn))
            found.append(logits)
        return found

    with both_engines(small):
        fast = decode()
    with plain():
        assert_close(decode(), fast, rtol=tolerance, atol=tolerance * max(1, float(fast[0].abs().max())))


@once
@pytest.mark.parametrize("small", [0, 10**9], ids=["PyTorch", "NumPy"])
@settings(max_examples=8)
@given(st.sampled_from(SWITCHES), st.integers(0, 999))
def test_plain_and_fast_decoding_choose_the_same_ids(small, switches, seed):
    model = tiny(seed=seed, **switches)
    prompts = random_ids(model, 3, 4, seed=seed).tolist()

    def ids() -> list:
        found = [generate(model, prompts, max_new_tokens=6, temperature=t, seed=seed) for t in (0, 1)]
        found.append(beam_search(model, prompts[0], width=3, max_new_tokens=6))
        return [each.ids for generations in found for each in generations]

    with both_engines(small):
        fast = ids()
    with plain():
        assert ids() == fast


@pytest.mark.parametrize("dtype, size", [("float64", 0), ("float16", 10**9), ("bfloat16", 10**9)])
def test_models_that_numpy_can_not_read_go_to_pytorch(dtype, size):
    with both_engines(size), mock.patch("minigpt.fast.engine_numpy.Packed", side_effect=AssertionError):
        model = tiny(getattr(torch, dtype))
        logits, state = model.prefill([[1, 2], [3]])
        assert model.step(state, torch.tensor([1, 2]))[0].dtype == logits.dtype == model.head.weight.dtype


@once
@pytest.mark.parametrize("small", [0, 10**9], ids=["PyTorch", "NumPy"])
@settings(max_examples=8)
@given(st.sampled_from(SWITCHES))
def test_a_second_prefill_sees_the_weights_as_they_are_then(small, switches):
    model = tiny(**switches)
    with both_engines(small):
        model.prefill([[1, 2, 3]])
        for parameter in model.parameters():
            parameter.data.mul_(1.1)  # no version counter tells
            logits, state = model.prefill([[1, 2]])
            found = [logits, model.step(state, torch.tensor([3]))[0]]
            assert_close(found, [each[None] for each in model(torch.tensor([[1, 2, 3]]))[0, 1:].detach()])


def first_loss(config: GPTConfig, rows: int, length: int) -> float:
    """The loss of a fresh model on random tokens."""
    torch.manual_seed(0)
    model = GPT(config)
    ids = torch.randint(config.vocab_size, (rows, length + 1))
    with torch.inference_mode():
        return cross_entropy(model(ids[:, :-1]), ids[:, 1:]).item()


@pytest.mark.claim("P3")
@pytest.mark.parametrize(
    "config",
    [
        *[GPTConfig.toy(vocab_size=V) for V in (65, 300, 931, 1024, 8192)],
        GPTConfig.toy(vocab_size=931, tie_embeddings=False),
        GPTConfig.toy(norm="layernorm", position="learned", mlp="gelu", bias=True),
        GPTConfig.gpt2(n_layers=2, vocab_size=5000),
        GPTConfig.llama(n_layers=2, d_model=512, d_ff=1792, n_heads=8, n_kv_heads=2, vocab_size=5000),
    ],
    ids=lambda config: f"V={config.vocab_size} C={config.d_model} {config.norm} tied={config.tie_embeddings}",
)
def test_the_first_loss_is_that_of_knowing_nothing(config):
    assert first_loss(config, rows=8, length=48) == pytest.approx(math.log(config.vocab_size), abs=0.1)


@pytest.mark.slow
def test_gpt2_has_its_124_439_808_parameters_and_begins_at_ln_v():
    with torch.device("meta"):
        model = GPT(GPTConfig.gpt2())
    assert sum(parameter.numel() for parameter in model.parameters()) == 124_439_808
    assert first_loss(GPTConfig.gpt2(), rows=2, length=32) == pytest.approx(math.log(50257), abs=0.1)


@once
def test_only_a_model_with_biases_has_them(switches):
    model = tiny(**switches)
    biases = {name.rpartition(".")[0] for name, _ in model.named_parameters() if name.endswith("bias")}
    layers = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)} - {"head"}
    norms = {name for name, _ in model.named_modules() if name.endswith("norm")}
    expected = layers | (norms if switches["norm"] == "layernorm" else set())
    assert biases == (expected if switches["bias"] else set())


def test_a_tied_weight_is_one_parameter():
    # docs/known_bugs.md: a tied weight counted twice
    tied, untied = tiny(tie_embeddings=True), tiny(tie_embeddings=False)
    assert tied.head.weight is tied.token_embedding.weight
    assert "head.weight" not in dict(tied.named_parameters())
    assert sum(p.numel() for p in untied.parameters()) - sum(p.numel() for p in tied.parameters()) == 29 * 16


def cached_logits(model: GPT, texts: list[list[int]], lengths: list[int], steps: int) -> list[torch.Tensor]:
    """What `prefill` and then `steps` calls of `step` give for texts whose first `lengths` ids are the prompts."""
    logits, cache = model.prefill([text[:length] for text, length in zip(texts, lengths)])
    found = [logits]
    for i in range(steps):
        logits, cache = model.step(cache, torch.tensor([text[n + i] for text, n in zip(texts, lengths)]))
        found.append(logits)
    return found


@torch.no_grad()
def whole_logits(model: GPT, texts: list[list[int]], lengths: list[int], steps: int) -> list[torch.Tensor]:
    """The same logits from each text alone, read whole and without a cache."""
    whole = [model(torch.tensor([text]))[0] for text in texts]
    return [torch.stack([rows[n - 1 + i] for rows, n in zip(whole, lengths)]) for i in range(steps + 1)]


@pytest.mark.parametrize("lengths", [[3, 1, 5], [4, 4, 4], [2]], ids=str)
def test_the_cache_changes_no_logit_and_a_row_of_a_batch_is_what_it_is_alone(switches, lengths):
    # docs/known_bugs.md: left padding shifting positions
    model = tiny(**switches)
    texts = random_ids(model, len(lengths), 16).tolist()
    assert_close(
        cached_logits(model, texts, lengths, steps=5),
        whole_logits(model, texts, lengths, steps=5),
        rtol=1e-9,
        atol=1e-9,
    )


def test_a_model_of_one_block_has_a_cache_too():
    model = tiny(n_layers=1)
    _, state = model.prefill([[1, 2]])
    assert_close(model.step(state, torch.tensor([3]))[0], model(torch.tensor([[1, 2, 3]]))[:, -1])


@pytest.mark.parametrize("position", ["rope", "learned"])
@pytest.mark.parametrize("lengths", [[3, 60, 1], [70, 70]], ids=str)
def test_the_cache_grows_past_its_first_slots(position, lengths):
    model = tiny(position=position, context_length=220, n_kv_heads=2)
    texts = random_ids(model, len(lengths), 220).tolist()
    assert_close(
        cached_logits(model, texts, lengths, 140), whole_logits(model, texts, lengths, 140), rtol=1e-9, atol=1e-9
    )


@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=4),
    st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=5), min_size=1, max_size=3),
    st.booleans(),
)
def test_reordered_rows_go_on_as_copies_of_the_rows_they_came_from(lengths, orders, learned):
    # docs/known_bugs.md: a cache that is not reordered: rows may be repeated, dropped and swapped, several times
    model = tiny(position="learned" if learned else "rope")
    texts = [random_ids(model, n, seed=n + i).tolist() for i, n in enumerate(lengths)]
    _, cache = model.prefill(texts)
    for turn, order in enumerate(orders):
        rows = [row % len(texts) for row in order]
        cache = model.reorder(cache, torch.tensor(rows))
        news = random_ids(model, len(rows), seed=100 + turn).tolist()
        texts = [[*texts[row], new] for row, new in zip(rows, news)]
        logits, cache = model.step(cache, torch.tensor(news))
        alone = [model(torch.tensor([text]))[0, -1] for text in texts]
        assert_close(logits, torch.stack(alone).detach(), rtol=1e-9, atol=1e-9)


def test_dropout_is_on_in_training_and_off_when_evaluating_or_generating():
    # docs/known_bugs.md: dropout on while sampling
    model, ids = tiny(dropout=0.5), torch.tensor([[1, 2, 3, 4]])
    quiet = model(ids)
    assert_close(quiet, tiny()(ids))
    model.train()
    assert not torch.equal(model(ids), model(ids))
    logits, cache = model.prefill(ids[:, :3].tolist())
    assert_close(logits, quiet[:, 2].detach())
    assert_close(model.step(cache, ids[:, 3])[0], quiet[:, 3].detach())
    assert model.training


def test_dropout_acts_on_the_embeddings_and_on_both_halves_of_each_block():
    model, ids = tiny(dropout=0.25, n_layers=3).train(), torch.tensor([[1, 2, 3]])
    with mock.patch("minigpt.formulas.dropout", wraps=formulas.dropout) as dropout:
        model(ids)
    assert [call.args[1] for call in dropout.call_args_list] == [0.25] * (1 + 2 * 3)


def test_weights_begin_small_and_smaller_where_they_write_into_the_stream():
    torch.manual_seed(0)
    config = GPTConfig.toy(n_layers=8, bias=True, norm="layernorm", position="learned")
    for name, parameter in GPT(config).named_parameters():
        if parameter.ndim == 2:
            writes = name.endswith(("attention.output.weight", "mlp.down.weight"))
            assert parameter.std().item() == pytest.approx(0.02 / 4 if writes else 0.02, rel=0.05), name
        else:
            assert (parameter == (0 if name.endswith("bias") else 1)).all(), name


@once
def test_the_embeddings_of_a_wide_model_begin_smaller():
    torch.manual_seed(0)
    model = GPT(GPTConfig.toy(n_layers=1, d_model=400, tie_embeddings=False, position="learned"))
    for embedding in (model.token_embedding, model.position_embedding, model.head):
        assert embedding.weight.std().item() == pytest.approx(0.01, rel=0.05)


@pytest.mark.parametrize("position", ["rope", "learned"])
def test_more_tokens_than_the_context_holds_are_refused(position):
    # docs/known_bugs.md: a cache run past the window
    model, ids = tiny(position=position), [1] * 16
    _, cache = model.prefill([ids, [1]])
    for too_long in (
        lambda: model(torch.tensor([[*ids, 1]])),
        lambda: model.prefill([[1], [*ids, 1]]),
        lambda: model.step(cache, torch.tensor([1, 1])),
    ):
        with pytest.raises(ValueError, match=r"17 tokens .* context of 16"):
            too_long()


@pytest.mark.usefixtures("edition")
def test_a_text_without_any_token_is_refused():
    model = tiny()
    for empty in (
        lambda: model.prefill([[]]),
        lambda: model.prefill([[1, 2], []]),
        lambda: model(torch.ones(1, 0).long()),
    ):
        with pytest.raises(ValueError, match=r"0 .*tokens do not fit in the context of 16"):
            empty()


@pytest.mark.usefixtures("edition")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])  # NumPy reads the one, PyTorch the other
@pytest.mark.parametrize("prompt", [[1, -1], [1, 29]])
def test_an_id_that_is_no_row_of_the_embedding_is_refused(prompt, dtype):
    with pytest.raises(IndexError):
        tiny(dtype).prefill([prompt])


def test_the_whole_context_can_be_used():
    model = tiny()
    texts = random_ids(model, 2, 16).tolist()
    assert_close(cached_logits(model, texts, [10, 3], 6), whole_logits(model, texts, [10, 3], 6), rtol=1e-9, atol=1e-9)


def test_a_row_goes_on_to_the_window_s_end_after_a_longer_one_has_left():
    model = tiny(context_length=16)
    logits, cache = model.prefill([list(range(14)), [1, 2, 3]])
    for _ in range(2):
        logits, cache = model.step(cache, logits.argmax(-1))
    cache = model.reorder(cache, torch.tensor([1]))
    logits = logits[1:]
    for _ in range(11):
        logits, cache = model.step(cache, logits.argmax(-1))
    assert logits.isfinite().all()
    with pytest.raises(ValueError, match="17 tokens do not fit in the context of 16"):
        model.step(cache, logits.argmax(-1))
