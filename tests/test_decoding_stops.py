"""Stop strings, the least length, and users' own filters: what ends a text, and what its reader gets to see."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import OUT, prompts, quick, random_trees
from trees import HistoryModel, RandomTree

from decoding import (
    Settings,
    beam_search,
    beam_steps,
    filter_steps,
    generate,
    generate_steps,
    stream,
    stream_text,
    top_k,
    top_p,
)
from minigpt import Tokenizer

pytestmark = pytest.mark.usefixtures("edition")
HALF = "\ufffd"

# Pieces of few letters and of split characters (é, 🙂), so that stop strings begin and end anywhere in tokens.
PIECES = [b"a", b"b", b"ab", b"ba", b" ", b"aab", b"\n", b"\n\n", b"b\na", "é".encode(), "aé🙂".encode(),
          b"\xc3", b"\xa9", b"\xf0\x9f", b"\x99\x82", b"\x99", b"\x82a", b"\xff"]  # fmt: skip
tokens = st.lists(st.sampled_from(PIECES), min_size=2, max_size=7)
words = st.text("ab\né🙂 " + HALF, min_size=1, max_size=4)


class Script(HistoryModel):
    """A model that says the given ids, one after the other."""

    def __init__(self, ids):
        super().__init__()
        self.ids, self.V = ids, max(ids) + 1

    def next_logits(self, history):
        logits = torch.full((self.V,), OUT, dtype=torch.float64)
        logits[self.ids[len(history) - 1]] = 0.0
        return logits


def spoken(pieces: list[str | bytes], **settings):
    """What generate makes of a model that says these pieces, one token each."""
    raw = [piece if isinstance(piece, bytes) else piece.encode() for piece in pieces]
    model, tok = Script(range(len(raw))), Tokenizer(raw, [])
    settings = {"max_new_tokens": len(raw), "decode": tok.decode} | settings
    [one] = generate(model, [[0]], **settings)
    assert "".join(stream_text(model, [0], **settings)) == one.text
    return one


def cut(text: str, stop: list[str], start: int = 0) -> tuple[str, bool]:
    """The reference: the whole text up to the first stop string in it, at or after start."""
    places = [text.index(one, start) for one in stop if one in text[start:]]
    return (text[: min(places)], True) if places else (text, False)


@st.composite
def stopped_runs(draw):
    """A model over a random tokenizer, prompts, settings, and stop strings of which many stand in its texts."""
    tok = Tokenizer(draw(tokens), [])
    model = draw(random_trees())
    model.vocab_size = tok.vocab_size
    most = draw(st.integers(1, 12))
    settings = {
        "max_new_tokens": most,
        "min_new_tokens": draw(st.sampled_from([0, 0, 0, 1, most // 2, most])),
        "temperature": draw(st.sampled_from([0, 1.0])),
        "eos_id": draw(st.sampled_from([None, None, 0])),
        "seed": draw(st.integers(0, 1000)),
        "decode": tok.decode,
    }
    texts = draw(prompts(model))
    whole = generate(model, texts, **settings)
    said = whole[0].text
    inner = st.integers(0, max(0, len(said) - 1)).flatmap(lambda i: st.integers(1, 5).map(lambda n: said[i : i + n]))
    stop = draw(st.lists(words | inner.filter(bool) if said else words, min_size=1, max_size=3))
    return model, texts, settings, stop, whole


@given(run=stopped_runs())
@quick
def test_a_text_is_cut_at_the_first_stop_string_wherever_tokens_end(run):
    """Decode all that would be said without stop strings, and cut it: the same text, row for row."""
    model, texts, settings, stop, whole = run
    decode, least = settings["decode"], settings["min_new_tokens"]
    for one, without in zip(generate(model, texts, stop=stop, **settings), whole, strict=True):
        words_of = without.ids[:-1] if without.stop == "eos" else without.ids
        start = len(decode(words_of[:least]).rstrip(HALF)) if least < len(words_of) else len(without.text)
        text, found = cut(without.text, stop, start)
        assert one.text == text
        assert one.stop == ("stop" if found else without.stop)
        assert one.ids == without.ids[: len(one.ids)] and (found or one.ids == without.ids)
        assert len(one.ids) >= min(least, len(without.ids))

        # it ends with the token after which the stop string is certain, no sooner and no later
        certain = [decode(one.ids[:n]).rstrip(HALF) for n in range(least + 1, len(one.ids) + 1)]
        is_certain = [
            any(said.startswith(each, len(text)) for each in stop)
            and not any(each.startswith(said[i:]) for each in stop for i in range(start, len(text)))
            for said in certain
        ]
        assert not any(is_certain[:-1])
        if found and len(one.ids) < len(without.ids):
            assert is_certain[-1]


@given(run=stopped_runs())
@quick
def test_a_stream_shows_all_that_no_stop_string_can_take_back_and_nothing_else(run):
    model, texts, settings, stop, _ = run
    asked = Settings(**{name: value for name, value in settings.items() if name != "seed"}, stop=stop)
    [one] = generate(model, texts[:1], **settings, stop=stop)
    shown, ids = "", []
    for step in generate_steps(model, texts[0], asked, settings["seed"]):
        shown += step.text
        ids.append(step.id)
        held = asked.decode(ids).rstrip(HALF)[len(shown) :]
        assert step.stop or held == "" or any(each.startswith(held) and each != held for each in stop)
    assert shown == one.text == "".join(stream_text(model, texts[0], **settings, stop=stop))


@pytest.mark.parametrize(
    "pieces, stop, text",
    [
        (["Hi", " there", "\n", "\nYou"], ["\n\n"], "Hi there"),  # over two tokens
        (["one\n\ntwo", "three"], ["\n\n"], "one"),  # inside of one
        (["a", "b", "c", "d", "e"], ["bcd"], "a"),
        (["a", "\n", "b", "\n"], ["\n\n"], "a\nb\n"),  # what turned out not to be one is shown
        (["x", "STO", "P", "!"], ["STOP", "P!"], "x"),  # the first in the text, not in the list
        (["x", "a", "b", "c", "d"], ["b", "abcz"], "xa"),  # overlapping: the earlier one came to nothing
        (["x", "a", "b", "c", "z", "y"], ["b", "abcz"], "x"),  # the earlier one came true
        (["x", "a", "b"], ["b", "abcz"], "xa"),  # undecided when the text ends
        (["x", "ab", "c"], ["abc", "ab"], "x"),  # one is the beginning of another
        (["aa", "ab", "b"], ["ab"], "aa"),
        (["a", b"\xc3", b"\xa9", "b"], ["é"], "a"),  # a character split over tokens
        (["a", b"\xf0\x9f", b"\x99", b"\x82b", "c"], ["🙂b"], "a"),
        (["a", b"\xf0\x9f", "b"], ["🙂"], "a" + HALF + "b"),  # half a character
        (["a", b"\xf0\x9f"], ["🙂"], "a" + HALF),
        (["a", b"\xff", "b"], [HALF], "a"),
        (["\n\n", "a"], ["\n\n"], ""),
    ],
)
def test_by_hand(pieces, stop, text):
    one = spoken(pieces, stop=stop)
    assert one.text == text
    assert one.stop == ("length" if one.text == spoken(pieces).text else "stop")


def test_it_ends_as_soon_as_the_stop_string_is_whole():
    one = spoken(["Hi", "\n", "\n", "You", ":"], stop="\n\n")  # a single one needs no list
    assert (one.text, one.ids, one.stop, len(one.logprobs)) == ("Hi", [0, 1, 2], "stop", 3)
    one = spoken(["Hi", "\n", "\n"], stop=["\n\n"])  # the reason told is the one that cut the text
    assert (one.text, one.stop) == ("Hi", "stop")


def test_an_end_token_is_no_text():
    one = spoken(["Hi", "\n", "<end>"], stop=["\n<", "nd"], eos_id=2)
    assert (one.text, one.ids, one.stop) == ("Hi\n", [0, 1, 2], "eos")
    [one] = generate(Script([0]), [[0]], max_new_tokens=1)
    assert one.text is None
    with pytest.raises(ValueError, match="decode is None"):
        list(stream_text(Script([0]), [0], max_new_tokens=1, decode=None))


def test_pieces_come_as_soon_as_they_are_certain():
    pieces = [b"ab", b"c", b"\xf0\x9f", b"\x99\x82", b"c", b"x", b"d"]
    text = stream_text(Script(range(7)), [0], max_new_tokens=7, decode=Tokenizer(pieces, []).decode, stop=["cx"])
    assert list(text) == ["ab", "c🙂"]
    free = stream_text(Script(range(7)), [0], max_new_tokens=7, decode=Tokenizer(pieces, []).decode)
    assert list(free) == ["ab", "c", "🙂", "c", "x", "d"]


def test_ids_can_not_tell_where_a_stop_string_begins():
    with pytest.raises(ValueError, match=r"stop is \('x',\).*stream_text"):
        list(stream(Script([0]), [0], max_new_tokens=1, stop=["x"], decode=str))
    with pytest.raises(ValueError, match=r"stop is \('x',\).*beam search"):
        list(beam_steps(Script([0]), [0], Settings(1, stop=["x"], decode=str), width=1))


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"stop": [""]}, "entry of stop is ''.*at least one character"),
        ({"stop": ""}, "entry of stop is ''"),
        ({"stop": ["a", 3]}, "entry of stop is 3"),
        ({"stop": 3}, "stop is 3"),
        ({"stop": b"ab"}, "stop is b'ab'"),
        ({"stop": ["a"], "decode": None}, "decode is None; expected a function from ids to text"),
        ({"decode": "utf-8"}, "decode is 'utf-8'"),
        ({"min_new_tokens": -1}, "min_new_tokens is -1"),
        ({"min_new_tokens": 0.5}, "min_new_tokens is 0.5"),
        ({"min_new_tokens": 4}, "min_new_tokens is 4; expected a whole number from 0 to 3"),
        ({"filters": 3}, "filters is 3"),
        ({"filters": ["top_k"]}, "entry of filters is 'top_k'"),
    ],
)
def test_a_bad_setting_is_an_error_that_says_what_would_be_right(settings, words):
    with pytest.raises(ValueError, match=words):
        generate(Script([0]), [[0]], **{"max_new_tokens": 3, "decode": str} | settings)


# ---- the least length


@given(model=random_trees(), seed=st.integers(0, 100), least=st.integers(0, 6), greedy=st.booleans())
@quick
def test_no_row_ends_within_its_first_tokens(model, seed, least, greedy):
    settings = {"eos_id": 0, "temperature": 0 if greedy else 1.0, "seed": seed}
    for one in generate(model, [[0]] * 5, max_new_tokens=6, min_new_tokens=least, **settings):
        assert len(one.ids) >= least and 0 not in one.ids[:least]
        assert one.logprobs == pytest.approx(told(model, [0], one.ids))
    best = beam_search(model, [0], width=3, max_new_tokens=6, min_new_tokens=least, eos_id=0)
    assert all(len(one.ids) >= least and 0 not in one.ids[:least] for one in best)


def test_the_least_length_is_a_stage_of_its_own_until_it_is_reached():
    x, settings = torch.zeros(4), Settings(9, eos_id=[3, 1], banned_ids=[0], min_new_tokens=2)
    names = [[name for name, _ in filter_steps(x, [], settings, length)] for length in (1, 2, 3)]
    assert names == [["model", "banned_ids", "min_new_tokens"]] * 2 + [["model", "banned_ids"]]
    assert list(filter_steps(x, [], settings, 1))[-1][1].tolist() == [OUT, OUT, 0.0, OUT]


def test_with_end_tokens_alone_a_least_length_leaves_nothing():
    [one] = generate(RandomTree(V=2, seed=0), [[0]], max_new_tokens=3, min_new_tokens=1, eos_id=[0, 1])
    [path] = beam_search(RandomTree(V=2, seed=0), [0], width=2, max_new_tokens=3, min_new_tokens=1, eos_id=[0, 1])
    assert (one.ids, one.stop) == (path.ids, path.stop) == ([], "blocked")


# ---- log-probabilities, one per token


def told(model, prompt: list[int], ids: list[int]) -> list[float]:
    """The log-probability of each id after those before it."""
    return [model.next_logits([*prompt, *ids[:i]]).log_softmax(-1)[id].item() for i, id in enumerate(ids)]


@given(model=random_trees(), seed=st.integers(0, 100), settings=st.sampled_from([{}, {"top_k": 2}, {"temperature": 0}]))
@quick
def test_each_token_has_its_log_probability_before_any_filter(model, seed, settings):
    found = generate(model, [[0], [1, 0]], max_new_tokens=5, seed=seed, eos_id=1, **settings)
    found += beam_search(model, [0], width=3, max_new_tokens=4, eos_id=1, length_penalty=0.5)
    for one, prompt in zip(found, [[0], [1, 0], [0], [0], [0]]):
        assert one.logprobs == pytest.approx(told(model, prompt, one.ids), abs=1e-9)
        assert one.logprob == pytest.approx(sum(one.logprobs), abs=1e-12)


# ---- a user's own filter


def no_first(logits):
    logits[0] = OUT
    return logits


def test_an_own_filter_comes_last_and_sees_one_row_at_a_time():
    seen, model = [], RandomTree(V=6, seed=1)

    def watch(logits):
        seen.append(logits.clone())
        return logits

    settings = {"temperature": 0.5, "top_k": 3, "max_new_tokens": 1}
    generate(model, [[0], [1], [2]], filters=[watch, no_first], seed=0, **settings)
    assert len(seen) == 3
    for row, prompt in zip(seen, ([0], [1], [2])):
        *_, (_, last) = filter_steps(model.next_logits(prompt), prompt, Settings(**settings))
        assert torch.equal(row, last)
    x = torch.randn(2, 6)
    steps = list(filter_steps(x, [[0], [0]], Settings(**settings, filters=[no_first, partial(top_k, k=1)])))
    assert [name for name, _ in steps] == ["model", "temperature", "top_k", "no_first", "partial"]
    assert (steps[-1][1][:, 0] == OUT).all() and (steps[-1][1] > OUT).sum() == 2


@given(model=random_trees(), seed=st.integers(0, 100), greedy=st.booleans())
@quick
def test_what_an_own_filter_takes_out_is_never_chosen(model, seed, greedy):
    """Also at temperature 0, and its writing into the logits leaves the log-probabilities alone."""
    settings = {"temperature": 0 if greedy else 0.8, "seed": seed, "max_new_tokens": 4}
    own = generate(model, [[1], [0, 1]], filters=[no_first], **settings)
    assert own == generate(model, [[1], [0, 1]], banned_ids=[0], **settings)
    assert not any(0 in one.ids for one in own)


@given(model=random_trees(), greedy=st.booleans())
@quick
def test_an_own_filter_sees_only_what_the_others_left_at_temperature_0_too(model, greedy):
    [one] = generate(model, [[1]], filters=[no_first], top_k=1, temperature=0 if greedy else 1.0, max_new_tokens=4)
    [free] = generate(model, [[1]], temperature=0, max_new_tokens=4)
    assert one.ids == (free.ids[: free.ids.index(0)] if 0 in free.ids else free.ids)
    assert one.stop == ("blocked" if 0 in free.ids else "length")


@given(model=random_trees(), seed=st.integers(0, 100), p=st.floats(0.1, 1))
@quick
def test_our_own_filters_can_be_passed_in_another_order(model, seed, p):
    ours = generate(model, [[0], [1]], top_p=p, seed=seed, max_new_tokens=4)
    assert generate(model, [[0], [1]], filters=[partial(top_p, p=p)], seed=seed, max_new_tokens=4) == ours


def test_a_row_that_an_own_filter_empties_is_blocked_and_never_shown_to_the_next():
    settings = {"max_new_tokens": 3, "seed": 0, "filters": [lambda x: torch.full_like(x, OUT), lambda x: x - x]}
    found = generate(RandomTree(V=3, seed=0), [[0], [1]], **settings)
    assert [(one.ids, one.stop) for one in found] == [([], "blocked")] * 2


def bad_nan(logits):
    return logits * math.nan


@pytest.mark.parametrize(
    "filter, words",
    [
        (bad_nan, r"logit in the result of the filter bad_nan is \[nan\]; expected finite"),
        (lambda x: x + math.inf, r"logit in the .*<lambda> is \[inf\]"),
        (lambda x: x[:2], r"shape of the result of the filter <lambda> is \(2,\); expected \(5,\)"),
        (lambda x: x > 0, "result of the filter <lambda> is tensor.*floating-point"),
        (lambda x: None, "result of the filter <lambda> is None"),
        (lambda x: x.tolist(), "result of the filter <lambda> is .*floating-point"),
    ],
)
@pytest.mark.parametrize("temperature", [0, 1.0])
def test_a_filter_that_returns_no_logits_is_named(filter, words, temperature):
    with pytest.raises(ValueError, match=words):
        generate(RandomTree(V=5, seed=0), [[0], [1]], max_new_tokens=2, filters=[filter], temperature=temperature)
