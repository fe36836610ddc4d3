"""The lecture's slides as tests: small probability trees, walked by the decoders."""

import itertools
import math

import pytest
import torch
from trees import Tree

from decoding import (
    Settings,
    beam_search,
    beam_steps,
    generate,
    generate_steps,
    min_p,
    stream,
    temperature,
    top_k,
    top_p,
)

pytestmark = pytest.mark.usefixtures("edition")

BEAM_SLIDE = Tree(
    {
        "how": {"come": 0.24, "are": 0.31, "do": 0.26, "is": 0.19},
        "how come": {"animals": 0.36, "people": 0.34, "they": 0.30},
        "how are": {"you": 0.91, "they": 0.09},
        "how do": {"you": 0.63, "they": 0.32, "people": 0.05},
        "how is": {"it": 1.0},
    }
)


def continue_one(tree: Tree, prompt: str, **settings) -> str:
    settings = {"max_new_tokens": 2} | settings
    return tree.text(generate(tree, [tree.ids(prompt)], **settings)[0].ids)


def log(*probabilities: float) -> torch.Tensor:
    return torch.tensor(probabilities).log()


@pytest.mark.claim("G1")
def test_generation_is_a_for_loop():
    """model, choice, append, repeat: the loop written out gives what generate gives."""
    tree, text = BEAM_SLIDE, BEAM_SLIDE.ids("how")
    for _ in range(2):
        logits, _ = tree.prefill([text])
        text = [*text, logits[0].argmax().item()]
    assert tree.text(text) == "how " + continue_one(tree, "how", temperature=0)


@pytest.mark.claim("G2")
def test_the_end_token_or_the_maximum_length_whichever_is_first():
    tree = Tree({"I": {"think": 1.0}, "I think": {".": 0.9, "so": 0.1}, "I think .": {"more": 1.0}})
    ended = generate(tree, [tree.ids("I")], max_new_tokens=5, eos_id=0, temperature=0)[0]
    assert (tree.text(ended.ids), ended.stop) == ("think .", "eos")
    cut = generate(tree, [tree.ids("I")], max_new_tokens=1, eos_id=0, temperature=0)[0]
    assert (tree.text(cut.ids), cut.stop) == ("think", "length")
    both = generate(tree, [tree.ids("I")], max_new_tokens=2, eos_id=0, temperature=0)[0]
    assert (tree.text(both.ids), both.stop) == ("think .", "eos")
    assert generate(tree, [tree.ids("I")], max_new_tokens=3, temperature=0)[0].stop == "length"  # no end token is known
    assert tree.text(list(stream(tree, tree.ids("I"), max_new_tokens=5, eos_id=0, temperature=0))) == "think"


@pytest.mark.claim("G3")
def test_two_families():
    """Greedy and beam repeat themselves; the stochastic ones don't, unless they are given a seed."""
    coins = Tree({"toss": {"heads": 0.5, "tails": 0.5}})
    coins.next_logits = lambda history: torch.zeros(len(coins.words)).double()
    prompt = [coins.ids("toss")]

    def run(**settings):
        return generate(coins, prompt, max_new_tokens=64, **settings)[0].ids

    assert run(temperature=0) == run(temperature=0)
    assert beam_search(coins, prompt[0], width=2, max_new_tokens=8) == beam_search(
        coins, prompt[0], width=2, max_new_tokens=8
    )
    for settings in ({}, {"top_k": 3}, {"top_p": 0.7}, {"temperature": 0.9}):
        assert run(**settings) != run(**settings)  # equal once in 3**64
        assert run(**settings, seed=7) == run(**settings, seed=7) != run(**settings, seed=8)


@pytest.mark.claim("G4")
def test_greedy_takes_the_most_probable_token_at_each_step():
    tree = Tree(
        {
            "how": {"are": 0.56, "is": 0.24, "do": 0.20},
            "how are": {"you": 0.8, "they": 0.2},
            "how are you": {"doing": 0.6, "today": 0.4},
        }
    )
    assert continue_one(tree, "how", temperature=0, max_new_tokens=3) == "are you doing"
    assert continue_one(BEAM_SLIDE, "how", temperature=0) == "are you"


@pytest.mark.claim("G4")
def test_greedy_can_miss_what_beam_finds():
    tree = Tree({"a": {"nice": 0.5, "dog": 0.4, "car": 0.1}, "a nice": {"woman": 0.4, "house": 0.3, "guy": 0.3},
                 "a dog": {"has": 0.9, "runs": 0.1}})  # fmt: skip
    greedy = generate(tree, [tree.ids("a")], max_new_tokens=2, temperature=0)[0]
    best = beam_search(tree, tree.ids("a"), width=2, max_new_tokens=2)[0]
    assert (tree.text(greedy.ids), tree.text(best.ids)) == ("nice woman", "dog has")
    assert math.exp(greedy.logprob) == pytest.approx(0.20) and math.exp(best.logprob) == pytest.approx(0.36)


@pytest.mark.claim("G5")
def test_beam_can_end_below_greedy():
    """ "At least as probable as greedy" is false: here width 2 prunes the very path that greedy takes."""
    tree = Tree(
        {
            "s": {"a": 0.40, "b": 0.35, "c": 0.25},
            "s a": {"a": 0.34, "b": 0.33, "c": 0.33},  # .136 at best
            "s b": {"a": 0.5, "b": 0.5},  # .175 twice: these two stay
            "s a a": {"a": 1.0},
            "s b a": {"a": 0.4, "b": 0.3, "c": 0.3},
            "s b b": {"a": 0.4, "b": 0.3, "c": 0.3},
        }
    )
    greedy = generate(tree, [tree.ids("s")], max_new_tokens=3, temperature=0)[0]
    best = beam_search(tree, tree.ids("s"), width=2, max_new_tokens=3)[0]
    assert math.exp(greedy.logprob) == pytest.approx(0.136) and math.exp(best.logprob) == pytest.approx(0.07)


@pytest.mark.claim("G5")
def test_the_beam_slide():
    """k = 3: the three survivors, their products, and what is pruned on the way."""
    tree = BEAM_SLIDE
    first, second = beam_steps(tree, tree.ids("how"), Settings(max_new_tokens=2), width=3)
    assert [tree.text(path.ids) for path in first.kept] == ["are", "do", "come"]
    assert [math.exp(path.logprob) for path in first.kept] == pytest.approx([0.31, 0.26, 0.24])
    assert [tree.text(path.ids) for path in first.pruned] == ["is"] and first.finished == []
    assert [tree.text(path.ids) for path in second.kept] == ["are you", "do you", "come animals"]
    assert [math.exp(path.logprob) for path in second.kept] == pytest.approx([0.31 * 0.91, 0.26 * 0.63, 0.24 * 0.36])
    assert [tree.text(path.ids) for path in second.pruned] == ["do they", "come people", "come they"]
    found = beam_search(tree, tree.ids("how"), width=3, max_new_tokens=2)
    assert found == second.finished
    assert [(tree.text(each.ids), each.stop) for each in found] == [
        ("are you", "length"), ("do you", "length"), ("come animals", "length"),
    ]  # fmt: skip
    assert [math.exp(each.score) for each in found] == pytest.approx([0.2821, 0.1638, 0.0864])


@pytest.mark.claim("G5")
def test_beam_still_repeats_and_blocked_ngrams_mend_it():
    loop = Tree({" ".join(["go"] * n): {"go": 0.9, "home": 0.1} for n in range(1, 9)})
    best = beam_search(loop, loop.ids("go"), width=3, max_new_tokens=6, eos_id=0)[0]
    assert loop.text(best.ids) == "go go go go go go"
    best = beam_search(loop, loop.ids("go"), width=3, max_new_tokens=6, eos_id=0, no_repeat_ngram=2)[0]
    assert loop.text(best.ids) == "home ."


@pytest.mark.claim("G6")
def test_multinomial_draws_from_the_whole_distribution():
    tree = Tree({"how": {"are": 0.37, "is": 0.21, "do": 0.20, "come": 0.12, "zebra": 0.10}})
    seen = generate(tree, [tree.ids("how")] * 300, max_new_tokens=1, seed=0)
    assert {tree.text(each.ids) for each in seen} == {"are", "is", "do", "come", "zebra"}


@pytest.mark.claim("G7")
def test_top_k_keeps_three_whatever_the_shape():
    tree = Tree({"how": {"are": 0.37, "is": 0.21, "do": 0.20, "come": 0.12, "zebra": 0.10}})
    seen = generate(tree, [tree.ids("how")] * 100, max_new_tokens=1, top_k=3, seed=0)
    assert {tree.text(each.ids) for each in seen} == {"are", "is", "do"}
    expected = [0.37 / 0.78, 0.21 / 0.78, 0.20 / 0.78, 0, 0]
    assert top_k(log(0.37, 0.21, 0.20, 0.12, 0.10), 3).softmax(-1).tolist() == pytest.approx(expected)
    thanks_a = log(0.89, 0.05, 0.03, 0.02, 0.01)  # "lot" has 89 %, and k = 3 still admits two bad tokens
    assert top_k(thanks_a, 3).isfinite().tolist() == [True, True, True, False, False]


@pytest.mark.claim("G8")
def test_top_p_keeps_one_for_thanks_a_and_four_for_how():
    """.89 alone reaches .88; .31 + .29 + .18 + .12 = .90 does, .78 doesn't."""
    assert top_p(log(0.01, 0.89, 0.05, 0.03, 0.02), 0.88).isfinite().tolist() == [False, True, False, False, False]
    kept = top_p(log(0.10, 0.31, 0.18, 0.29, 0.12), 0.88)
    assert kept.isfinite().tolist() == [False, True, True, True, True]
    assert kept.softmax(-1).tolist() == pytest.approx([0, 0.31 / 0.9, 0.18 / 0.9, 0.29 / 0.9, 0.12 / 0.9])
    tree = Tree({"Thanks a": {"lot": 0.89, "million": 0.05, "bunch": 0.03, "zebra": 0.03}})
    seen = generate(tree, [tree.ids("Thanks a")] * 50, max_new_tokens=1, top_p=0.88, seed=0)
    assert {tree.text(each.ids) for each in seen} == {"lot"}


@pytest.mark.claim("G9")
def test_temperature_sharpens_and_smooths():
    how = log(0.31, 0.29, 0.18, 0.12, 0.10)
    largest = [temperature(how, t).softmax(-1).max().item() for t in (0.1, 0.5, 1, 2, 10)]
    assert all(sharper > smoother for sharper, smoother in itertools.pairwise(largest))
    assert temperature(how, 1e-4).softmax(-1).tolist() == pytest.approx([1, 0, 0, 0, 0])
    assert temperature(how, 1e4).softmax(-1).tolist() == pytest.approx([0.2] * 5, rel=1e-3)
    squared = [p * p for p in (0.31, 0.29, 0.18, 0.12, 0.10)]
    assert temperature(how, 0.5).softmax(-1).tolist() == pytest.approx([p / sum(squared) for p in squared])


@pytest.mark.claim("G10")
def test_top_p_of_a_tenth_is_greedy_when_the_first_token_has_more():
    assert top_p(log(0.11, 0.10, *[0.79 / 9] * 9), 0.1).isfinite().sum() == 1
    assert top_p(log(*[0.05] * 20), 0.1).isfinite().sum() == 2


def test_each_step_shows_what_the_picture_draws():
    """The steps beneath generate carry the distribution before and after the filters, and the choice."""
    tree = BEAM_SLIDE
    first, second = generate_steps(tree, tree.ids("how"), Settings(max_new_tokens=2, top_p=0.5), seed=1)
    assert first.stop is None and second.stop == "length"
    assert first.logits.softmax(-1)[tree.words.index("are")].item() == pytest.approx(0.31)
    kept = [tree.words[i] for i in first.filtered.isfinite().nonzero().flatten().tolist()]
    assert sorted(kept) == ["are", "do"] and tree.words[first.id] in kept
    assert first.logprob == pytest.approx(math.log({"are": 0.31, "do": 0.26}[tree.words[first.id]]))


def test_min_p_follows_the_shape_too():
    assert min_p(log(0.89, 0.05, 0.03, 0.02, 0.01), 0.1).isfinite().sum() == 1
    assert min_p(log(0.31, 0.29, 0.18, 0.12, 0.10), 0.1).isfinite().sum() == 5
