"""What every algorithm writes after one prompt, and what it does to the probabilities, as plain data (G1 to G11)."""

import math
import time
from collections.abc import Sequence
from itertools import groupby

from torch import Tensor

from decoding import Generation, Settings, beam_search, beam_steps, filter_steps, generate, generate_steps, top_p
from scripts.support.measuring.answers import as_far_as, as_text
from scripts.support.measuring.distribution import entropy, kept
from scripts.support.measuring.repetition import distinct2, repeats, repetition
from scripts.support.strategies import NEW_TOKENS, STRATEGIES, TASKS
from scripts.support.terminal import show_each, table, visible
from sft import end_ids

TOP_K = STRATEGIES["top_k"].arguments["top_k"]
TOP_P = STRATEGIES["top_p"].arguments["top_p"]
UNLIKELY = 0.01  # a probability below it


def trace(model, tok, prompt: str, *, look_at: str, seed: int = 0, runs: int = 2, new_tokens: int = NEW_TOKENS) -> dict:
    """Everything that the table and the pictures show.

    prompt is continued by every algorithm; the distributions and the beam tree are those after look_at. Each algorithm
    has seeds of its own, so that those that draw don't begin alike.
    """
    ids = as_text(tok, prompt)
    endless = Endless(model, [*tok.special.values(), *end_ids(tok)])

    # prompts of growing length: the last three beginnings of look_at, and what the model says next
    words = look_at.split(" ")
    beginnings = [" ".join(words[: i + 1]) for i in range(len(words))][-3:]
    looked_at = as_text(tok, look_at)
    growing = beginnings + [look_at + best for best in best_paths(model, tok, looked_at)]

    seeds = {name: seed + place * runs for place, name in enumerate(STRATEGIES)}
    each = show_each(STRATEGIES, "continue")
    return {
        "prompt": prompt,
        "look_at": look_at,
        "continuations": [compare(endless, tok, ids, name, seeds[name], runs, new_tokens) for name in each],
        "least_likely": least_likely(endless, tok, ids, seed, new_tokens),
        "next_token": next_token(model, tok, looked_at),
        "kept": kept_after(model, tok, growing),
        "kept_by_step": kept_by_step(endless, ids, seed, new_tokens),
        "tree": beam_tree(model, tok, looked_at),
        "tasks": tasks(model, looked_at),
    }


class Endless:
    """A model that never chooses a special token, so that every algorithm has to fill the same length."""

    def __init__(self, model, special: list[int]):
        self.model = model
        self.special = special
        self.context_length = model.context_length
        self.reorder = model.reorder

    def prefill(self, prompts):
        return self._without_end(*self.model.prefill(prompts))

    def step(self, state, ids):
        return self._without_end(*self.model.step(state, ids))

    def _without_end(self, logits, state):
        return logits.index_fill(-1, logits.new_tensor(self.special).long(), -math.inf), state


def continue_prompt(
    model,
    prompt: list[int],
    arguments: dict,
    *,
    max_new_tokens: int,
    eos_id: int | Sequence[int] | None = None,
    seed: int | None = None,
) -> Generation:
    """Decode with a strategy's arguments; of beam search, which draws nothing, the best path."""
    if "width" in arguments:
        return beam_search(model, prompt, max_new_tokens=max_new_tokens, eos_id=eos_id, **arguments)[0]
    return generate(model, [prompt], max_new_tokens=max_new_tokens, eos_id=eos_id, seed=seed, **arguments)[0]


def compare(model, tok, ids: list[int], strategy: str, seed: int, runs: int, new_tokens: int) -> dict:
    """Several runs of one algorithm: the first one's text, mean figures, and whether another run differs (G3)."""
    arguments = STRATEGIES[strategy].arguments

    started = time.perf_counter()
    said = [continue_prompt(model, ids, arguments, max_new_tokens=new_tokens, seed=seed + i) for i in range(runs)]
    seconds = time.perf_counter() - started

    return {
        "strategy": strategy,
        "knobs": arguments,
        "seed": seed,
        "text": as_far_as(tok, said[0]),
        "marked": marked(tok, said[0]),
        "repetition": sum(repetition(g.ids) for g in said) / runs,
        "distinct2": sum(distinct2(g.ids) for g in said) / runs,
        "logprob": sum(g.logprob / len(g.ids) for g in said) / runs,
        "second_run_differs": any(g.ids != said[0].ids for g in said[1:]),
        "ms_per_token": 1000 * seconds / sum(len(g.ids) for g in said),
    }


def marked(tok, said: Generation) -> list[tuple[str, str]]:
    """A text in parts, each with its mark: "unlikely" for a token drawn against the odds, "repeat" or ""."""
    likely = ["unlikely" if logprob < math.log(UNLIKELY) else "" for logprob in said.logprobs]
    marks = [one or ("repeat" if again else "") for one, again in zip(likely, repeats(said.ids))]
    parts = groupby(zip(said.ids, marks), key=lambda pair: pair[1])
    return [(tok.decode([id for id, _ in pairs]), mark) for mark, pairs in parts]


def least_likely(model, tok, ids: list[int], seed: int, new_tokens: int, runs: int = 20) -> dict:
    """The least likely token of several texts drawn from the whole distribution, with what is around it (G6)."""
    said = generate(model, [ids] * runs, max_new_tokens=new_tokens, seed=seed)
    drawn = [(logprob, row, place) for row, one in enumerate(said) for place, logprob in enumerate(one.logprobs)]
    logprob, row, place = min(drawn)
    text = said[row].ids
    return {
        "tokens": len(drawn),
        "unlikely": sum(one < math.log(UNLIKELY) for one, _, _ in drawn),
        "p": math.exp(logprob),
        "before": tok.decode(text[max(0, place - 15) : place]),
        "token": tok.decode(text[place : place + 1]),
        "after": tok.decode(text[place + 1 : place + 16]),
    }


def filtered(logits: Tensor, ids: list[int], arguments: dict) -> Tensor:
    """What the filters leave of the logits (1, V) of the token after ids, in decoding's order."""
    _, left = list(filter_steps(logits, [ids], Settings(max_new_tokens=1, **arguments)))[-1]  # after the last filter
    return left


def next_token(model, tok, ids: list[int]) -> dict:
    """The next-token distribution before and after each filter, over its 12 most probable tokens."""
    logits, _ = model.prefill([ids])  # (1, V)
    stages = {
        "the model's distribution": logits,
        f"top-k, k = {TOP_K}": filtered(logits, ids, {"top_k": TOP_K}),
        f"top-p, p = {TOP_P}": filtered(logits, ids, {"top_p": TOP_P}),
        "min-p, .3 of the best": filtered(logits, ids, {"min_p": 0.3}),
        "temperature .5": filtered(logits, ids, {"temperature": 0.5}),
        "temperature 2": filtered(logits, ids, {"temperature": 2.0}),
    }
    shown = logits[0].topk(12).indices
    return {
        "tokens": [tok.decode([id]) for id in shown.tolist()],
        "stages": [(title, left[0].softmax(-1)[shown].tolist()) for title, left in stages.items()],
    }


def best_paths(model, tok, ids: list[int]) -> list[str]:
    """What the model most probably says next: one token, then two."""
    [said] = generate(model, [ids], max_new_tokens=2, temperature=0)
    return [tok.decode(said.ids[:1]), tok.decode(said.ids)]


def kept_after(model, tok, prompts: list[str]) -> list[dict]:
    """How many tokens top-k and top-p keep after each prompt: k is fixed, top-p follows the distribution (G7, G8)."""
    logits, _ = model.prefill([as_text(tok, prompt) for prompt in prompts])  # (B, V)
    rows = []
    for prompt, row in zip(prompts, logits):
        probability, best = row.softmax(-1).max(-1)
        rows.append({
            "prompt": prompt,
            "best": tok.decode([best.item()]).strip(),
            "p": probability.item(),
            "entropy": entropy(row),
            "top_k": TOP_K,
            "top_p": kept(top_p(row, TOP_P)),
        })  # fmt: skip
    return rows


def kept_by_step(model, ids: list[int], seed: int, new_tokens: int) -> list[dict]:
    """Along a text drawn with top-p: the number of tokens that top-p, and top-k, would keep at each step."""
    steps = generate_steps(model, ids, Settings(max_new_tokens=new_tokens, top_p=TOP_P), seed)
    return [{"top_p": kept(top_p(step.logits, TOP_P)), "top_k": TOP_K} for step in steps]


def beam_tree(model, tok, ids: list[int], steps: int = 4, width: int = 3, pruned: int = 3) -> list[dict]:
    """The first steps of a beam search: kept and pruned paths, each with its parent's place in the step before (G5)."""
    tree = []
    places = {(): 0}  # of the kept paths in the step before
    found = list(beam_steps(model, ids, Settings(max_new_tokens=steps), width))
    best = max((done for step in found for done in step.finished), key=lambda done: done.score)

    def describe(path) -> dict:
        return {
            "parent": places[path.ids[:-1]],
            "text": tok.decode(path.ids[-1:]),
            "probability": math.exp(path.logprob),
            "best": list(path.ids) == best.ids[: len(path.ids)],
        }

    for step in found:
        tree.append({
            "kept": [describe(path) for path in step.kept],
            "pruned": [describe(path) for path in step.pruned[:pruned]],
        })  # fmt: skip
        places = {path.ids: place for place, path in enumerate(step.kept)}
    return tree


def tasks(model, ids: list[int]) -> list[dict]:
    """What each task's settings leave of the next-token distribution (G10)."""
    logits, _ = model.prefill([ids])  # (1, V)
    rows = []
    for task, settings in TASKS.items():
        left = filtered(logits, ids, settings)[0]  # (V,)
        rows.append({"task": task, **settings, "kept": kept(left), "entropy": entropy(left)})
    return rows


def show(trace: dict) -> None:
    """The table of algorithms on the terminal."""
    table(
        ["algorithm", "repeated 4-grams", "distinct pairs", "log-prob", "ms/token", "2nd run", "text"],
        [
            [row["strategy"], row["repetition"], row["distinct2"], row["logprob"], row["ms_per_token"],
             "differs" if row["second_run_differs"] else "same", " ".join(row["text"].split())]
            for row in trace["continuations"]
        ],
    )  # fmt: skip
    odd = trace["least_likely"]
    print(
        f"  multinomial, 20 texts: {odd['unlikely']:,} of {odd['tokens']:,} tokens had less than {UNLIKELY:.0%} each;"
    )
    where = visible(f"{odd['before']}[{odd['token']}]{odd['after']}")
    print(f"  the least likely, {odd['p']:.2g}, in brackets: …{' '.join(where.split())} …")


def show_tasks(trace: dict) -> None:
    """The table of the tasks' settings on the terminal."""
    print("\n  Settings by task: a forum's rule of thumb, and what they leave of the next token's distribution here")
    table(
        ["task", "temperature", "top-p", "tokens kept", "entropy", ""],
        [
            [row["task"], row["temperature"], row["top_p"], row["kept"], row["entropy"],
             "one token is left: this is greedy" if row["kept"] == 1 else ""]
            for row in trace["tasks"]
        ],
    )  # fmt: skip
