"""Beam search (G5): keep the few partial sequences of the highest cumulative probability, return the best of them."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from decoding import filters
from decoding.generate import Generation, check_logits, why_stop
from decoding.protocol import LanguageModel
from decoding.settings import Ids, Settings, as_prompts, room_for
from plain_or_fast import has_twin


class Path(NamedTuple):
    ids: tuple[int, ...]  # the new tokens so far
    logprob: float  # the sum of their log-probabilities
    logprobs: tuple[float, ...] = ()  # one per id


class BeamStep(NamedTuple):
    kept: list[Path]  # the live paths, best first, at most `width`; the parent of one has the ids path.ids[:-1]
    pruned: list[Path]  # the candidates ranked next, best first: the nearest to have been kept
    finished: list[Generation]  # the paths that ended in this turn


def beam_search(
    model: LanguageModel, prompt: Ids, *, width: int, max_new_tokens: int, eos_id: int | Ids | None = None,
    length_penalty: float = 0.0, no_repeat_ngram: int | None = None, min_new_tokens: int = 0,
) -> list[Generation]:  # fmt: skip
    """Continue the prompt along the `width` most probable paths at once; the finished ones, best first (G5).

    Returns `width` Generations, or all there are of positive probability. Score: logprob / length ** length_penalty,
    the length in new tokens, the end token included; 0 ranks by the probability of the whole, 1 by the mean per token.
    ValueErrors as in `generate`. Graves 2012, arXiv:1211.3711, section 2.5; Sutskever et al. 2014, arXiv:1409.3215.

    >>> from decoding import uncached  # 0 is likelier after the prompt, but 1 is followed by a sure thing
    >>> tree = uncached(lambda ids: torch.tensor([[.5, .5, 0], [.1, .9, 0], [.6, .4, 0]])[ids].log())
    >>> [(one.ids, round(2.718 ** one.logprob, 2)) for one in beam_search(tree, [2], width=2, max_new_tokens=2)]
    [([1, 1], 0.36), ([0, 0], 0.3)]
    """
    settings = Settings(max_new_tokens, eos_id, no_repeat_ngram=no_repeat_ngram, min_new_tokens=min_new_tokens)
    finished = []
    for step in beam_steps(model, prompt, settings, width, length_penalty):
        finished += step.finished
    return sorted(finished, key=lambda one: -one.score)[:width]


@torch.inference_mode()
def beam_steps(
    model: LanguageModel, prompt: Ids, settings: Settings, width: int, length_penalty: float = 0.0
) -> Iterator[BeamStep]:
    """Yield each turn as a BeamStep, until no path can still be among the best."""
    settings.check_beam(width, length_penalty)
    [prompt] = as_prompts(model, [prompt])
    room = room_for(model, prompt)
    longest = min(settings.max_new_tokens, room)

    def finish(path: Path, stop: str) -> Generation:
        score = path.logprob / max(len(path.ids), 1) ** length_penalty
        return Generation(list(path.ids), path.logprob, score, stop, list(path.logprobs))

    live = [Path((), 0.0)]
    best = []  # of all finished ones
    logits, state = model.prefill([list(prompt)])  # (1, V)
    V = logits.shape[-1]
    settings.check_vocabulary(V, [prompt])

    for length in range(1, settings.max_new_tokens + 1):
        # score every continuation of every live path by its cumulative log-probability
        check_logits(logits)
        so_far = torch.tensor([path.logprob for path in live], dtype=torch.float64, device=logits.device)  # (B,)
        scores = so_far[:, None] + logits.double().log_softmax(-1)  # (B, V), B = len(live)
        if length <= settings.min_new_tokens:
            scores = filters.ban(scores, [*settings.end_ids])
        if settings.no_repeat_ngram is not None:
            scores = filters.no_repeat_ngram(scores, [[*prompt, *path.ids] for path in live], settings.no_repeat_ngram)
        finished = [finish(path, "blocked") for path, top in zip(live, scores.amax(-1).tolist()) if top == filters.OUT]

        # rank them all together: this many fill the beam even if every path has a candidate per end token
        ranking, scores = best_candidates(scores.flatten(), 2 * width + len(live) * len(settings.end_ids))
        kept, parents, pruned = [], [], []
        for rank, (candidate, logprob) in enumerate(zip(ranking, scores, strict=True)):
            parent, id = divmod(candidate, V)
            path = Path((*live[parent].ids, id), logprob, (*live[parent].logprobs, logprob - live[parent].logprob))
            stop = why_stop(id, length, room, settings)
            if stop == "eos" and rank < width:
                finished.append(finish(path, stop))
            elif stop != "eos" and len(kept) < width:
                kept.append(path)
                parents.append(parent)
            else:
                pruned.append(path)

        if length == longest:  # nothing follows
            finished += [finish(path, why_stop(path.ids[-1], length, room, settings)) for path in kept]
        yield BeamStep(kept, pruned, finished)
        best = sorted(best + finished, key=lambda one: -one.score)[:width]  # stable: of equals, what ended first
        if length == longest or not kept:
            return
        # Can a live path still win? Growing never raises a logprob, so at best the best path keeps its own, and ends
        # at once (best for a length penalty below 0) or at the greatest length (best for one above 0).
        limit = max(kept[0].logprob / length**length_penalty, kept[0].logprob / longest**length_penalty)
        if len(best) == width and best[-1].score >= limit:
            return

        # append the kept tokens, each to its own path
        if parents != list(range(len(live))):
            state = model.reorder(state, torch.tensor(parents, device=logits.device))
        live = kept
        logits, state = model.step(state, torch.tensor([path.ids[-1] for path in live], device=logits.device))


@has_twin("decoding.fast.ranking")
def best_candidates(scores: Tensor, n: int) -> tuple[list[int], list[float]]:
    """The n best of (N,) scores, best first, the lowest index first among equals; impossible ones (-inf) left out."""
    ranked, order = scores.sort(descending=True, stable=True)
    possible = ranked[:n] > filters.OUT
    return order[:n][possible].tolist(), ranked[:n][possible].tolist()
