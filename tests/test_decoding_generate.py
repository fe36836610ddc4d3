"""Every rule about the loop, as a property: models are random trees, whose next logits depend on the whole text."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import OUT, filter_settings, prompts, quick, random_trees
from trees import HistoryModel, RandomTree

from decoding import (
    Settings,
    ban,
    filter_steps,
    generate,
    generate_steps,
    min_p,
    no_repeat_ngram,
    repetition_penalty,
    stream,
    temperature,
    top_k,
    top_p,
)
from plain_or_fast import Switch

pytestmark = pytest.mark.usefixtures("edition")


@st.composite
def runs(draw, windows=(None, None, 8, 12)):
    """A model, prompts for it, and any settings of generate."""
    model = draw(random_trees(windows=windows))
    return (
        model,
        draw(prompts(model)),
        draw(filter_settings(model.vocab_size))
        | {
            "max_new_tokens": draw(st.integers(1, 8)),
            "eos_id": draw(st.sampled_from([None, None, 0, [0, 1], (1,)])),
            "seed": draw(st.integers(0, 1000)),
        },
    )


def as_set(eos_id) -> set[int]:
    return set() if eos_id is None else {eos_id} if isinstance(eos_id, int) else set(eos_id)


@given(run=runs())
@quick
def test_a_row_comes_out_as_it_would_alone(run):
    """Row i equals that prompt alone with seed s + i.

    Known bugs (docs/known_bugs.md): a seed that depends on the neighbours, positions that shift with the padding, a
    cache that isn't reordered when a row ends."""
    model, prompts, settings = run
    together = generate(model, prompts, **settings)
    for row, (prompt, one) in enumerate(zip(prompts, together, strict=True)):
        [alone] = generate(model, [prompt], **settings | {"seed": settings["seed"] + row})
        assert (alone.ids, alone.stop) == (one.ids, one.stop) and alone.logprob == pytest.approx(one.logprob)
    seeds = [settings["seed"] + row for row in range(len(prompts))]
    assert generate(model, prompts, **settings | {"seed": seeds}) == together


@given(run=runs())
@quick
def test_a_generation_tells_the_truth_about_itself(run):
    """ids hold the end token and nothing after it; logprob is theirs before any filter; stop says why it ended."""
    model, prompts, settings = run
    end_ids, most = as_set(settings["eos_id"]), settings["max_new_tokens"]
    for prompt, one in zip(prompts, generate(model, prompts, **settings), strict=True):
        assert not end_ids & set(one.ids[:-1])
        assert len(one.ids) <= most
        full = model.context_length is not None and len(prompt) + len(one.ids) == model.context_length
        assert model.context_length is None or len(prompt) + len(one.ids) <= model.context_length
        if one.ids and one.ids[-1] in end_ids:
            assert one.stop == "eos"
        elif len(one.ids) == most:
            assert one.stop == "length"
        elif full:
            assert one.stop == "context"
        else:
            assert one.stop == "blocked"
            text = [*prompt, *one.ids]
            n = settings["no_repeat_ngram"]
            for id in set(range(model.vocab_size)) - set(settings["banned_ids"]):
                ngrams = [(*text, id)[i : i + n] for i in range(len(text) + 2 - n)] if n else []
                assert ngrams and ngrams[-1] in ngrams[:-1]
        text, logprob = list(prompt), 0.0
        for id in one.ids:
            logprob += model.next_logits(text).log_softmax(-1)[id].item()
            text.append(id)
        assert one.logprob == one.score == pytest.approx(logprob, abs=1e-9)


@given(run=runs())
@quick
def test_the_filters_come_in_the_pinned_order(run):
    """Banned ids, n-grams, penalty, temperature, top-k, min-p, top-p; the choice is one of what they leave."""
    model, prompts, settings = run
    off = {"temperature": 1.0, "repetition_penalty": 1.0, "banned_ids": []}
    seed = settings.pop("seed")
    for prompt in prompts:
        text = list(prompt)
        for step in generate_steps(model, prompt, Settings(**settings), seed):
            left = raw = model.next_logits(text)
            assert torch.equal(step.logits, raw)
            for name, apply in [
                ("banned_ids", ban),
                ("no_repeat_ngram", lambda x, n, text=text: no_repeat_ngram(x, text, n)),
                ("repetition_penalty", lambda x, by, text=text: repetition_penalty(x, text, by)),
                ("temperature", temperature),
                ("top_k", top_k),
                ("min_p", min_p),
                ("top_p", top_p),
            ]:
                if settings[name] != off.get(name) and (left > OUT).any():
                    left = apply(left, settings[name])
            assert torch.equal(step.filtered, left)
            if step.id is None:
                assert (left == OUT).all() and step.stop == "blocked"
                continue
            assert left[step.id] > OUT
            assert step.logprob == pytest.approx(raw.log_softmax(-1)[step.id].item())
            if settings["temperature"] == 0:
                assert left.isfinite().sum() == 1
            text.append(step.id)
        assert step.stop is not None


def test_filter_steps_shows_each_filter_that_is_on():
    x = torch.tensor([[0.4, 0.3, 0.2, 0.06, 0.04], [0.04, 0.06, 0.2, 0.3, 0.4]]).log()
    every = {"banned_ids": [4], "min_new_tokens": 1, "no_repeat_ngram": 1, "repetition_penalty": 2.0,
             "temperature": 0.5, "top_k": 3, "min_p": 0.01, "top_p": 0.8}  # fmt: skip
    steps = list(filter_steps(x, [[3], [0]], Settings(max_new_tokens=1, eos_id=4, **every), length=1))
    assert [name for name, _ in steps] == ["model", *every]
    sizes = [left.isfinite().sum(-1).tolist() for _, left in steps]
    assert sizes == [[5, 5], [4, 4], [4, 4], [3, 3], [3, 3], [3, 3], [3, 3], [3, 3], [2, 2]]
    assert [name for name, _ in filter_steps(x, [[3], [0]], Settings(max_new_tokens=1))] == ["model"]


@given(run=runs())
@quick
def test_greedy_is_the_lowest_argmax_whatever_else_is_set(run):
    model, prompts, settings = run
    settings |= {"temperature": 0, "repetition_penalty": 1.0, "no_repeat_ngram": None, "banned_ids": ()}
    for prompt, one in zip(prompts, generate(model, prompts, **settings), strict=True):
        text = list(prompt)
        for id in one.ids:
            logits = model.next_logits(text)
            assert id == min(i for i in range(model.vocab_size) if logits[i] == logits.max())
            text.append(id)


@given(run=runs(windows=[None]), more=st.integers(1, 6))
@quick
def test_a_longer_limit_only_adds(run, more):
    model, prompts, settings = run
    short = generate(model, prompts, **settings)
    long = generate(model, prompts, **settings | {"max_new_tokens": settings["max_new_tokens"] + more})
    for before, after in zip(short, long, strict=True):
        assert after.ids[: len(before.ids)] == before.ids
        assert before.stop == "length" or before == after


@given(run=runs())
@quick
def test_the_stream_is_generate_without_the_end_token(run):
    model, prompts, settings = run
    [one] = generate(model, prompts[:1], **settings)
    streamed = list(stream(model, prompts[0], **settings))
    assert streamed == (one.ids[:-1] if one.stop == "eos" else one.ids)


@given(run=runs())
@quick
def test_rows_that_have_ended_cost_nothing(run):
    """Each token but a row's last is read once, and nothing else is."""
    model, prompts, settings = run
    model.rows_read.clear()
    found = generate(model, prompts, **settings)
    reads = [1 + len(one.ids) - (one.stop != "blocked") for one in found]
    together = [sum(count > step for count in reads) for step in range(max(reads))]
    assert model.rows_read == (together if Switch.fast else [1] * sum(reads))


def test_the_stream_gives_each_token_as_soon_as_it_is_chosen():
    model = RandomTree(V=5, seed=0)
    tokens = stream(model, [1], max_new_tokens=10, seed=0)
    next(tokens), next(tokens)
    assert len(model.rows_read) == 2


@pytest.mark.claim("G3")
@pytest.mark.parametrize("V", [2, 5, 40])
def test_without_a_seed_two_runs_differ_and_with_one_they_do_not(V):
    model, prompt = RandomTree(V=V, seed=V, scale=0.1), [[0]] * 3
    settings = {"max_new_tokens": 40, "top_p": 0.95}
    first, second = generate(model, prompt, **settings), generate(model, prompt, **settings)
    assert [one.ids for one in first] != [one.ids for one in second]
    assert first[0].ids != first[1].ids  # rows don't share a seed
    assert generate(model, prompt, **settings, seed=3) == generate(model, prompt, **settings, seed=3)
    state = torch.get_rng_state()
    generate(model, prompt, **settings)
    assert torch.equal(state, torch.get_rng_state()), "the global generator was touched"


def test_a_seed_does_not_depend_on_the_number_of_new_tokens_or_of_neighbours():
    """Known bug (docs/known_bugs.md): the same seed gives another text when the batch is another."""
    model = RandomTree(V=9, seed=1)
    alone = generate(model, [[1, 2]], max_new_tokens=30, seed=11)[0].ids
    assert generate(model, [[3], [1, 2], [4] * 5], max_new_tokens=30, seed=10)[1].ids == alone
    assert generate(model, [[1, 2], [1]], max_new_tokens=30, seed=[11, 0])[0].ids == alone
    assert generate(model, [[1, 2]], max_new_tokens=9, seed=11)[0].ids == alone[:9]


@given(run=runs(), dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32]))
@quick
def test_models_in_other_precisions(run, dtype):
    """Half-precision logits are counted in float32: the log-probabilities are those of the rounded logits."""
    model, prompts, settings = run
    model.dtype = dtype
    for prompt, one in zip(prompts, generate(model, prompts, **settings), strict=True):
        text, logprob = list(prompt), 0.0
        for id in one.ids:
            logprob += model.next_logits(text).to(dtype).double().log_softmax(-1)[id].item()
            text.append(id)
        assert one.logprob == pytest.approx(logprob, abs=1e-5)


# ---- the end of a row


def test_the_window():
    """Prompt and new tokens fill it exactly; nothing slides.

    Known bug (docs/known_bugs.md): a cache that runs past the window."""
    model = RandomTree(V=5, seed=0, context_length=6)
    found = generate(model, [[1], [1, 2, 3, 4, 0], [1, 2]], max_new_tokens=4, seed=0)
    assert [(len(one.ids), one.stop) for one in found] == [(4, "length"), (1, "context"), (4, "length")]
    found = generate(model, [[1]], max_new_tokens=50, seed=0)
    assert [(len(one.ids), one.stop) for one in found] == [(5, "context")]
    assert len(list(stream(model, [1], max_new_tokens=50, seed=0))) == 5


def test_a_row_without_a_token_left_stops_as_blocked_and_the_others_go_on():
    model = RandomTree(V=3, seed=0)
    settings = {"max_new_tokens": 9, "no_repeat_ngram": 1, "seed": 0, "top_p": 0.9, "temperature": 0.7}
    for extra in ({}, {"temperature": 0}, {"repetition_penalty": 2.0, "top_k": 2, "min_p": 0.1}):
        found = generate(model, [[0, 1, 2], [0], [0, 1]], **settings | extra)
        assert [(len(one.ids), one.stop) for one in found] == [(0, "blocked"), (2, "blocked"), (1, "blocked")]
        assert found[0].logprob == 0.0
        assert list(stream(model, [0, 1, 2], **settings | extra)) == []
    [nothing] = generate(model, [[0]], max_new_tokens=3, banned_ids=[0, 1, 2], no_repeat_ngram=2, top_k=1)
    assert (nothing.ids, nothing.stop) == ([], "blocked")
    found = generate(model, [[0], [0, 1, 2]], max_new_tokens=2, banned_ids=[2], no_repeat_ngram=1, seed=0)
    assert [(one.ids, one.stop) for one in found] == [([1], "blocked"), ([], "blocked")]


def test_several_end_tokens_in_any_collection():
    model = RandomTree(V=4, seed=2)
    expected = generate(model, [[0]] * 20, max_new_tokens=20, eos_id=[1, 3], seed=0)
    assert {one.ids[-1] for one in expected if one.stop == "eos"} == {1, 3}
    for eos_id in ((3, 1), {1, 3}, iter([1, 3])):
        assert generate(model, [[0]] * 20, max_new_tokens=20, eos_id=eos_id, seed=0) == expected


def test_no_prompts_no_generations():
    assert generate(RandomTree(V=3, seed=0), [], max_new_tokens=3) == []


# ---- errors


class Broken(HistoryModel):
    """Fine, until a row has three tokens."""

    def __init__(self, bad):
        super().__init__()
        self.bad = bad

    def next_logits(self, history):
        logits = torch.zeros(4)
        if len(history) >= 3:
            logits[:] = OUT if self.bad == OUT else 0.0
            logits[1] = self.bad
        return logits


@pytest.mark.parametrize("settings", [{}, {"temperature": 0}, {"top_p": 0.5}, {"top_k": 2, "no_repeat_ngram": 3}])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), OUT])
def test_logits_that_are_no_distribution_name_the_prompt(bad, settings):
    """Never a silent token 0. The row is the prompt's, also when rows before it have ended."""
    with pytest.raises(ValueError, match=r"row 2.*expected finite"):
        generate(Broken(bad), [[0], [0], [0, 1], [0]], max_new_tokens=2, seed=0, **settings)


def test_the_named_row_is_the_prompts_own_number_after_others_have_left():
    class OneEnds(Broken):
        def next_logits(self, history):
            return torch.tensor([0, 0, 9.0, 0]) if history[0] == 3 else super().next_logits(history)

    with pytest.raises(ValueError, match="row 1"):
        generate(OneEnds(float("nan")), [[3], [0]], max_new_tokens=9, eos_id=2, temperature=0)


@pytest.mark.parametrize(
    "prompt, words",
    [
        ([], "row 1 .*at least one"),
        ([0] * 6, "row 1 .*6.*window of 6"),
        ([0] * 7, "row 1 .*7.*window of 6"),
        ([0, 5], "row 1 .*5.*0 to 4"),
        ([-1], "row 1 .*-1"),
        ([0.5], "row 1 .*0.5"),
        (3, "row 1 .*3.*list"),
        (torch.tensor([0.5]), "row 1 .*0.5"),
        (torch.tensor([[1]]), r"row 1 .*\[1\]"),
        (torch.tensor(1), "row 1 .*1.*list"),
        ("12", "row 1 .*'12'.*list"),
    ],
)
def test_a_bad_prompt_is_an_error_that_says_what_would_be_right(prompt, words):
    model = RandomTree(V=5, seed=0, context_length=6)
    with pytest.raises(ValueError, match=words):
        generate(model, [[0], prompt], max_new_tokens=2)


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"max_new_tokens": 1.5}, "max_new_tokens is 1.5"),
        ({"eos_id": 5}, "eos_id is 5.*0 to 4"),
        ({"eos_id": [0, -1]}, "eos_id is -1"),
        ({"eos_id": 0.5}, "eos_id is 0.5"),
        ({"seed": [1]}, r"seed is \[1\].*2 of them"),
        ({"seed": [0, -1]}, "seed is -1"),
        ({"seed": [0, None]}, "seed is None"),
        ({"seed": 0.5}, "seed is 0.5; expected None, an int >= 0, or 2 of them"),
        ({"seed": -1}, "seed is -1; expected None, an int >= 0, or 2 of them"),
        ({"seed": "ab"}, "seed is 'ab'; expected None, an int >= 0, or 2 of them"),
        ({"max_new_tokens": True}, "max_new_tokens is True"),
        ({"top_k": True}, "top_k is True"),
        ({"temperature": -1}, "temperature is -1"),
        ({"top_k": 0}, "top_k is 0"),
        ({"top_p": 1.1}, "top_p is 1.1"),
        ({"min_p": -0.5}, "min_p is -0.5"),
        ({"repetition_penalty": 0}, "repetition_penalty is 0"),
        ({"no_repeat_ngram": 0}, "no_repeat_ngram is 0"),
        ({"banned_ids": [7]}, "banned_ids is 7"),
        ({"banned_ids": "a"}, "banned_ids is 'a'"),
    ],
)
def test_a_bad_setting_is_an_error_that_says_what_would_be_right(settings, words):
    with pytest.raises(ValueError, match=words):
        generate(RandomTree(V=5, seed=0), [[0], [1]], **{"max_new_tokens": 2} | settings)


def test_the_last_id_of_the_vocabulary_is_fine():
    model = RandomTree(V=5, seed=0, context_length=6)
    assert generate(model, [[4, 0, 4, 0, 4]], max_new_tokens=1, eos_id=4, banned_ids=[4], seed=0)
    del model.vocab_size
    model.next_logits = lambda history: torch.zeros(5)
    with pytest.raises(ValueError, match=r"row 0 .*-1"):  # a model need not tell its vocabulary
        generate(model, [[-1]], max_new_tokens=1)
    assert generate(model, [[9]], max_new_tokens=1, seed=0)


def test_a_first_token_is_never_a_habit():
    """Different seeds give different first tokens: the generator isn't drawn from too late or shared."""
    model = RandomTree(V=7, seed=0, scale=0.0)
    first = [generate(model, [[0]], max_new_tokens=1, seed=seed)[0].ids[0] for seed in range(60)]
    assert set(first) == set(range(7))
    assert any(a != b for a, b in itertools.pairwise(first))
