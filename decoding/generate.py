"""The loop: the model gives probabilities, an algorithm picks one token, the token is appended, repeat (G1).

Greedy and all stochastic algorithms are this one loop; they differ in the filters that are switched on. A batch is many
prompts side by side, each with a random generator of its own: a row comes out as it would alone.
"""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Protocol

import torch
from torch import Tensor

from decoding import filters

State = Any  # what a model remembers of the tokens it has read: a key/value cache, or just the tokens


class LanguageModel(Protocol):
    """What a decoder needs of a model. `step` and `reorder` may write into the state they are given: it is used once.

    If the model also has the attribute `vocab_size`, prompts are checked against it.
    """

    context_length: int | None  # how many tokens fit into the window; None: any number

    def prefill(self, prompts: list[list[int]]) -> tuple[Tensor, State]:
        """Read prompts of unequal length; the logits (B, V) of the token after each."""

    def step(self, state: State, ids: Tensor) -> tuple[Tensor, State]:
        """Read one more token a row, ids (B,); the logits (B, V) of the token after it."""

    def reorder(self, state: State, rows: Tensor) -> State:
        """Keep, drop or repeat rows: row i of the new state is row rows[i] of the old one."""


@dataclass(frozen=True)
class Generation:
    """What was generated from one prompt, and why it ended."""

    ids: list[int]  # the new tokens, the end token included
    logprob: float  # their log-probability given the prompt, before any filter
    score: float  # what beam search ranks by, logprob / len(ids) ** length_penalty; elsewhere the logprob
    stop: str  # "eos", "length", "context" (the window is full) or "blocked" (no token was left to choose)


@dataclass(frozen=True)
class Step:
    """One turn of the loop as data; its rows are the prompts still being continued, B = len(rows)."""

    rows: list[int]  # which prompts they are
    logits: Tensor  # (B, V) as the model gave them
    filtered: Tensor  # (B, V) as the filters left them
    ids: list[int | None]  # the choices; None: blocked
    logprobs: list[float]  # of the choices, before any filter
    stops: list[str | None]  # None: the row goes on


def generate(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    eos_id: int | Iterable[int] | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
    no_repeat_ngram: int | None = None,
    banned_ids: Sequence[int] = (),
    seed: int | Sequence[int] | None = None,
) -> list[Generation]:
    """Continue each prompt until an end token or max_new_tokens, whichever is first (G1, G2).

    prompts: B lists of ids; returns B Generations. temperature=0 is greedy (G4), no filter at all is multinomial (G6).
    eos_id: one id or several. seed: s gives row i the seed s + i; or one a row; None: fresh ones (G3). ValueError for
    a bad argument, a prompt that is empty or leaves no room in the window, logits that are no distribution.

    >>> class Constant:  # a model needs no transformer
    ...     context_length, logits = None, torch.tensor([.1, .7, .2]).log()
    ...     def prefill(self, prompts): return self.logits.repeat(len(prompts), 1), None
    ...     def step(self, state, ids): return self.logits.repeat(len(ids), 1), None
    ...     def reorder(self, state, rows): return None
    >>> [continued.ids for continued in generate(Constant(), [[0], [2, 2]], max_new_tokens=3, temperature=0)]
    [[1, 1, 1], [1, 1, 1]]
    >>> generate(Constant(), [[0]], max_new_tokens=3, eos_id=1, top_p=.5)[0].stop
    'eos'
    """
    ids, logprobs, stops = [[] for _ in prompts], [0.0] * len(prompts), [""] * len(prompts)
    for step in generate_steps(
        model, prompts, max_new_tokens=max_new_tokens, eos_id=eos_id, seed=seed, temperature=temperature, top_k=top_k,
        top_p=top_p, min_p=min_p, repetition_penalty=repetition_penalty, no_repeat_ngram=no_repeat_ngram,
        banned_ids=banned_ids,
    ):  # fmt: skip
        for row, id, logprob, stop in zip(step.rows, step.ids, step.logprobs, step.stops, strict=True):
            if id is not None:
                ids[row].append(id)
                logprobs[row] += logprob
            stops[row] = stop
    return [Generation(*row) for row in zip(ids, logprobs, logprobs, stops, strict=True)]


def stream(model: LanguageModel, prompt: Sequence[int], **same) -> Iterator[int]:
    """Yield one by one the ids that `generate` gives for this prompt, without the end token; `same`: its arguments."""
    for step in generate_steps(model, [prompt], **same):
        if step.ids[0] is not None and step.stops[0] != "eos":
            yield step.ids[0]


@torch.inference_mode()
def generate_steps(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    eos_id: int | Iterable[int] | None = None,
    seed: int | Sequence[int] | None = None,
    temperature: float = 1.0,
    **other_filters,
) -> Iterator[Step]:
    """The loop beneath `generate` and `stream`: yield each turn as a Step. Arguments and errors as there."""
    room = check_prompts(model, prompts, max_new_tokens)
    generators = [random.Random(each) for each in _seeds(seed, len(prompts))]
    rows, histories = list(range(len(prompts))), [list(prompt) for prompt in prompts]
    if not rows:
        return
    logits, state = model.prefill([list(prompt) for prompt in prompts])  # (B, V)
    end_ids = as_set(eos_id, logits.shape[-1])
    while True:
        logits = logits if logits.dtype == torch.float64 else logits.float()
        filters.check(logits, names=rows)
        seen = [histories[row] for row in rows]
        *_, (_, filtered) = filter_steps(logits, seen, temperature=temperature, **other_filters)
        blocked = filtered.amax(-1).isneginf()  # (B,)
        if temperature == 0:
            ids = filtered.argmax(-1)  # (B,)
        else:
            uniforms = torch.tensor(
                [generators[row].random() for row in rows], dtype=torch.float64, device=logits.device
            )
            ids = draw(filtered.masked_fill(blocked[:, None], 0.0), uniforms)  # (B,)
        logprobs = logits.log_softmax(-1).gather(-1, ids[:, None]).squeeze(-1)  # (B,)

        choices, stops = ids.tolist(), []
        for i, (row, is_blocked) in enumerate(zip(rows, blocked.tolist(), strict=True)):
            if is_blocked:
                choices[i] = None
                stops.append("blocked")
                continue
            seen[i].append(choices[i])
            length = len(seen[i]) - len(prompts[row])
            stops.append("eos" if choices[i] in end_ids else why_full(length, max_new_tokens, room[row]))
        yield Step(rows, logits, filtered, choices, logprobs.tolist(), stops)

        left = [i for i, stop in enumerate(stops) if stop is None]
        if not left:
            return
        if len(left) < len(rows):  # rows that have ended cost nothing from here on
            keep = torch.tensor(left, device=ids.device)
            rows, ids, state = [rows[i] for i in left], ids[keep], model.reorder(state, keep)
        logits, state = model.step(state, ids)  # (B, V)


def filter_steps(
    logits: Tensor,
    histories: Sequence[Sequence[int]],
    *,
    banned_ids: Sequence[int] = (),
    no_repeat_ngram: int | None = None,
    repetition_penalty: float = 1.0,
    temperature: float = 1.0,
    top_k: int | None = None,
    min_p: float | None = None,
    top_p: float | None = None,
) -> Iterator[tuple[str, Tensor]]:
    """Apply the filters that are switched on, in this order: yield ("model", logits), then each name and what is left.

    logits: (B, V); histories: B lists of the ids so far. Where the first two leave no token, the row stays -inf.

    >>> steps = filter_steps(torch.tensor([[.5, .25, .25]]).log(), [[0]], banned_ids=[0], top_k=1)
    >>> [(name, left.softmax(-1).tolist()) for name, left in steps]
    [('model', [[0.5, 0.25, 0.25]]), ('banned_ids', [[0.0, 0.5, 0.5]]), ('top_k', [[0.0, 1.0, 0.0]])]
    """
    yield "model", logits
    blocked = None  # (B, 1): these rows are no distribution, so a filter is given another in their place
    for name, is_on, apply in (
        ("banned_ids", len(banned_ids) > 0, lambda x: filters.ban(x, banned_ids)),
        ("no_repeat_ngram", no_repeat_ngram is not None,
         lambda x: filters.no_repeat_ngram(x, histories, no_repeat_ngram)),
        ("repetition_penalty", repetition_penalty != 1,
         lambda x: filters.repetition_penalty(x, histories, repetition_penalty)),
        ("temperature", temperature != 1, lambda x: filters.temperature(x, temperature)),
        ("top_k", top_k is not None, lambda x: filters.top_k(x, top_k)),
        ("min_p", min_p is not None, lambda x: filters.min_p(x, min_p)),
        ("top_p", top_p is not None, lambda x: filters.top_p(x, top_p)),
    ):  # fmt: skip
        if not is_on:
            continue
        if blocked is None:
            logits = apply(logits)
        else:
            logits = apply(logits.masked_fill(blocked, 0.0)).masked_fill(blocked, filters.OUT)
        if name in ("banned_ids", "no_repeat_ngram"):
            blocked = logits.amax(-1, keepdim=True).isneginf()
        yield name, logits


def draw(logits: Tensor, uniforms: Tensor) -> Tensor:
    """Draw one token a row: walk up the cumulative distribution until it passes the row's uniform number.

    logits: (B, V); uniforms: (B,) float64 in [0, 1). Returns (B,) ids, each of positive probability.

    >>> draw(torch.tensor([[.2, .5, .3]]).log().repeat(3, 1), torch.tensor([.1, .2, .9], dtype=torch.float64))
    tensor([0, 1, 2])
    """
    mass = logits.double().softmax(-1).cumsum(-1)  # (B, V)
    total = mass[:, -1:].contiguous()  # (B, 1): rounding may leave it short of 1, so the uniform number is scaled
    # right=True is the first mass above the target: an equal one may belong to tokens of probability 0.
    ids = torch.searchsorted(mass, uniforms[:, None] * total, right=True)  # (B, 1)
    last = torch.searchsorted(mass, total)  # (B, 1): where the total is reached; what lies beyond adds nothing
    return torch.minimum(ids, last).squeeze(-1)


def check_prompts(model: LanguageModel, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[int]:
    """How many tokens each prompt can gain; ValueError if one is no prompt for this model."""
    whole = isinstance(max_new_tokens, int) and max_new_tokens >= 1
    filters.expect(whole, "max_new_tokens", max_new_tokens, "a whole number >= 1")
    window, V = model.context_length, getattr(model, "vocab_size", None)
    for row, prompt in enumerate(prompts):
        name = f"prompt of row {row}"
        filters.expect(isinstance(prompt, Sequence) and len(prompt) > 0, name, prompt, "a list of at least one id")
        unknown = [id for id in prompt if not (isinstance(id, Integral) and id >= 0 and (V is None or id < V))]
        expected = "whole numbers >= 0" if V is None else f"whole numbers from 0 to {V - 1}"
        filters.expect(not unknown, f"id in the {name}", next(iter(unknown), None), expected)
        fits = window is None or len(prompt) < window
        filters.expect(fits, f"length of the {name}", len(prompt), f"less than the window of {window}")
    return [max_new_tokens if window is None else min(max_new_tokens, window - len(prompt)) for prompt in prompts]


def as_set(eos_id: int | Iterable[int] | None, V: int) -> frozenset[int]:
    """The end tokens, whether none, one or several are given; ValueError if one is not in the vocabulary."""
    end_ids = frozenset() if eos_id is None else frozenset([eos_id] if isinstance(eos_id, Integral) else eos_id)
    known = all(isinstance(id, Integral) and 0 <= id < V for id in end_ids)
    filters.expect(known, "eos_id", eos_id, f"ids from 0 to {V - 1}, or None")
    return end_ids


def why_full(length: int, max_new_tokens: int, room: int) -> str | None:
    """Why nothing follows a row's length-th new token; None if something does."""
    return "length" if length == max_new_tokens else "context" if length == room else None


def _seeds(seed: int | Sequence[int] | None, rows: int) -> list[int | None]:
    """One seed a row; None is a fresh one."""
    if seed is None:
        return [None] * rows
    seeds = [seed + row for row in range(rows)] if isinstance(seed, Integral) else seed
    right = isinstance(seeds, Sequence) and all(isinstance(each, Integral) and each >= 0 for each in seeds)
    filters.expect(right and len(seeds) == rows, "seed", seed, f"None, an int >= 0, or {rows} of them, one a prompt")
    return [int(each) for each in seeds]
