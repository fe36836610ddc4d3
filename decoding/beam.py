"""Beam search (G5): keep the few partial sequences of the highest cumulative probability, return the best of them."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from decoding import filters
from decoding.generate import Generation, LanguageModel, as_set, check_prompts, why_full


@dataclass(frozen=True)
class Path:
    """A partial sequence: the new tokens so far, and the sum of their log-probabilities."""

    ids: tuple[int, ...]
    logprob: float


@dataclass(frozen=True)
class BeamStep:
    """One turn of beam search as data. The parent of a path has the ids path.ids[:-1]."""

    kept: list[Path]  # the live paths, best first, at most `width`
    pruned: list[Path]  # the candidates ranked next, best first: the nearest to have been kept
    finished: list[Generation]  # the paths that ended in this turn


def beam_search(
    model: LanguageModel,
    prompt: Sequence[int],
    *,
    width: int,
    max_new_tokens: int,
    eos_id: int | Iterable[int] | None = None,
    length_penalty: float = 0.0,
    no_repeat_ngram: int | None = None,
) -> list[Generation]:
    """Continue the prompt along the `width` most probable paths at once; the finished ones, best first (G5).

    Returns `width` Generations, fewer if there are no more sequences of positive probability. Their score is logprob /
    length ** length_penalty, the length in new tokens, the end token included: 0 ranks by the probability of the whole,
    1 by the mean log-probability a token. ValueErrors as in `generate`.
    Graves 2012, arXiv:1211.3711, section 2.5; Sutskever et al. 2014, arXiv:1409.3215, section 3.2.

    >>> class Tree:                                     # 0 is likelier at first, but 1 is followed by a sure thing
    ...     context_length, first, after = None, [.6, .4], [[.5, .5], [.1, .9]]
    ...     def prefill(self, prompts): return torch.tensor([self.first]).log(), None
    ...     def step(self, state, ids): return torch.tensor([self.after[id] for id in ids]).log(), None
    ...     def reorder(self, state, rows): return None
    >>> [(g.ids, round(2.718 ** g.logprob, 2)) for g in beam_search(Tree(), [0], width=2, max_new_tokens=2)]
    [([1, 1], 0.36), ([0, 0], 0.3)]
    """
    finished = []
    for step in beam_steps(
        model, prompt, width=width, max_new_tokens=max_new_tokens, eos_id=eos_id, length_penalty=length_penalty,
        no_repeat_ngram=no_repeat_ngram,
    ):  # fmt: skip
        finished += step.finished
    return _best(finished, width)


@torch.inference_mode()
def beam_steps(
    model: LanguageModel,
    prompt: Sequence[int],
    *,
    width: int,
    max_new_tokens: int,
    eos_id: int | Iterable[int] | None = None,
    length_penalty: float = 0.0,
    no_repeat_ngram: int | None = None,
) -> Iterator[BeamStep]:
    """The loop beneath `beam_search`: yield each turn as a BeamStep, until no path can still be among the best."""
    filters.expect(isinstance(width, int) and width >= 1, "width", width, "a whole number >= 1")
    filters.expect(-10 <= length_penalty <= 10, "length_penalty", length_penalty, "a number from -10 to 10")
    [room] = check_prompts(model, [prompt], max_new_tokens)

    def finish(path: Path, stop: str) -> Generation:
        score = path.logprob / max(len(path.ids), 1) ** length_penalty
        return Generation(list(path.ids), path.logprob, score, stop)

    live, best = [Path((), 0.0)], []  # best: of all finished ones
    logits, state = model.prefill([list(prompt)])  # (1, V)
    V = logits.shape[-1]
    end_ids = as_set(eos_id, V)
    while True:
        filters.check(logits)
        length = len(live[0].ids) + 1
        so_far = torch.tensor([path.logprob for path in live], dtype=torch.float64, device=logits.device)  # (B,)
        scores = so_far[:, None] + logits.double().log_softmax(-1)  # (B, V), B = len(live)
        finished = []
        if no_repeat_ngram is not None:
            scores = filters.no_repeat_ngram(scores, [[*prompt, *path.ids] for path in live], no_repeat_ngram)
            blocked = scores.amax(-1).isneginf().tolist()
            finished = [finish(path, "blocked") for path, is_blocked in zip(live, blocked, strict=True) if is_blocked]

        # The choice is among all continuations of all live paths. Each path has one candidate per end token, so this
        # many are enough to fill the beam with `width` live ones, and to show what else was near.
        ranking, scores = _rank(scores.flatten(), 2 * width + len(live) * len(end_ids))
        kept, parents, pruned = [], [], []
        for rank, (candidate, logprob) in enumerate(zip(ranking, scores, strict=True)):
            parent, id = divmod(candidate, V)
            path = Path((*live[parent].ids, id), logprob)
            if id in end_ids and rank < width:
                finished.append(finish(path, "eos"))
            elif id not in end_ids and len(kept) < width:
                kept.append(path)
                parents.append(parent)
            else:
                pruned.append(path)
        stop = why_full(length, max_new_tokens, room)
        if stop:
            finished += [finish(path, stop) for path in kept]
        yield BeamStep(kept, pruned, finished)

        best = _best(best + finished, width)
        if stop or not kept:
            return
        # A path only loses probability as it grows. So the score of what grows from the best one is at most what that
        # one would have if it ended at once, or (a length penalty above 0 favours length) at the greatest length.
        limit = max(kept[0].logprob / length**length_penalty, kept[0].logprob / room**length_penalty)
        if len(best) == width and best[-1].score >= limit:
            return
        if parents != list(range(len(live))):
            state = model.reorder(state, torch.tensor(parents, device=logits.device))
        live = kept
        logits, state = model.step(state, torch.tensor([path.ids[-1] for path in live], device=logits.device))


def _rank(scores: Tensor, n: int) -> tuple[list[int], list[float]]:
    """The n best of (N,) scores, best first, the lowest index first among equals: their indices and scores."""
    worst = scores.topk(min(n, len(scores))).values[-1]
    able = ((scores >= worst) & (scores > filters.OUT)).nonzero().squeeze(-1)  # subtle: more than n if some are equal
    order = scores[able].sort(descending=True, stable=True)
    return able[order.indices[:n]].tolist(), order.values[:n].tolist()


def _best(finished: list[Generation], width: int) -> list[Generation]:
    return sorted(finished, key=lambda generation: -generation.score)[:width]  # stable: of equals, what ended first
