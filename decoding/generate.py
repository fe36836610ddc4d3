"""The loop: the model gives probabilities, an algorithm picks one token, the token is appended, repeat (G1)."""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from decoding import filters
from decoding.protocol import LanguageModel
from decoding.settings import Ids, Settings, as_prompts, as_seeds, room_for
from decoding.stops import Reader
from plain_or_fast import has_twin


class Generation(NamedTuple):
    ids: list[int]  # the new tokens, the end token included
    logprob: float  # their log-probability given the prompt, before any filter: the sum of logprobs
    score: float  # what beam search ranks by, logprob / len(ids) ** length_penalty; elsewhere the logprob
    stop: str  # "eos", "stop", "length", "context" (the window is full) or "blocked" (no token was left to choose)
    logprobs: list[float]  # one per id
    text: str | None = None  # of the ids, without the end token and up to the first stop string; None: no `decode`


class Step(NamedTuple):
    logits: Tensor  # (V,) as the model gave them
    filtered: Tensor  # (V,) as the filters left them
    id: int | None  # the choice; None: no token was left to choose
    logprob: float  # of the choice, before any filter
    stop: str | None  # why the loop ends here; None: it continues
    text: str  # what `decode` makes certain now; "" without it


def generate(
    model: LanguageModel, prompts: Sequence[Ids], *, max_new_tokens: int, eos_id: int | Ids | None = None,
    temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None, min_p: float | None = None,
    repetition_penalty: float = 1.0, no_repeat_ngram: int | None = None, banned_ids: Ids = (),
    min_new_tokens: int = 0, stop: str | Sequence[str] = (), decode: Callable[[list[int]], str] | None = None,
    filters: Sequence[Callable[[Tensor], Tensor]] = (), seed: int | Sequence[int] | None = None,
) -> list[Generation]:  # fmt: skip
    """Continue each prompt until an end token, a stop string or max_new_tokens, whichever is first (G1, G2).

    prompts: B rows of ids; returns B Generations. temperature=0 is greedy (G4), no filter at all is multinomial (G6).
    eos_id: one id or several. stop: texts that end a row; they need decode, which makes ids text. Neither ends a row
    within its first min_new_tokens. filters: a user's own, logits (V,) to logits (V,), after all others. seed: s gives
    row i the seed s + i; or one per row; None: fresh ones (G3). ValueError for a bad argument, a prompt that is empty
    or leaves no room in the window, logits that are not a distribution.

    >>> from decoding import uncached
    >>> counts = uncached(lambda ids: torch.nn.functional.one_hot((ids + 1) % 5, 5).double())  # the next number
    >>> [one.ids for one in generate(counts, [[0], [2, 2]], max_new_tokens=3, temperature=0, eos_id=4)]
    [[1, 2, 3], [3, 4]]
    """
    settings = Settings(max_new_tokens, eos_id, temperature, top_k, top_p, min_p, repetition_penalty, no_repeat_ngram,
                        banned_ids, min_new_tokens, stop, decode, filters)  # fmt: skip
    prompts = as_prompts(model, prompts)
    return generate_each(model, prompts, settings, as_seeds(seed, len(prompts)))


@has_twin("decoding.fast.batch")
def generate_each(model: LanguageModel, prompts: list, settings: Settings, seeds: list) -> list[Generation]:
    """The loop for one prompt after the other, each with a seed of its own."""
    done = []
    for row, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
        ids, gains, text = [], [], ""
        for step in generate_steps(model, prompt, settings, seed, row):
            text += step.text
            if step.id is not None:
                ids.append(step.id)
                gains.append(step.logprob)
        done.append(Generation(ids, sum(gains), sum(gains), step.stop, gains, text if settings.decode else None))
    return done


@torch.inference_mode()
def generate_steps(
    model: LanguageModel, prompt: Ids, settings: Settings, seed: int | None = None, row: int = 0
) -> Iterator[Step]:
    """The for-loop (G1): ask the model, filter, choose, append, stop? Yield each turn as a Step. row: for errors."""
    [ids], [seed] = as_prompts(model, [prompt]), as_seeds(seed, 1)
    room = room_for(model, ids)
    chance, reader = random.Random(seed), Reader(settings)
    logits, state = model.prefill([list(ids)])  # (1, V)
    settings.check_vocabulary(logits.shape[-1], [ids])

    for length in range(1, settings.max_new_tokens + 1):
        # filter what the model says
        logits = logits[0] if logits.dtype == torch.float64 else logits[0].float()  # (V,)
        check_logits(logits, [row])
        stages = list(filters.filter_steps(logits, ids, settings, length))
        _, filtered = stages[-1]  # (V,) as the last filter left them

        # choose one token: the most probable one, or one drawn by chance
        if filtered.max() == filters.OUT:
            id, logprob = None, 0.0
        else:
            if settings.temperature == 0:
                id = filtered.argmax().item()
            else:
                id = draw(filtered, torch.tensor(chance.random(), dtype=torch.float64, device=logits.device)).item()
            logprob = logits.log_softmax(-1)[id].item()

        # append it, and stop or ask the model again
        ids.append(id)
        stop = why_stop(id, length, room, settings)
        text, stop = reader.read(id, stop) if settings.decode else ("", stop)
        yield Step(logits, filtered, id, logprob, stop, text)
        if stop:
            return
        logits, state = model.step(state, torch.tensor([id], device=logits.device))


def why_stop(id: int | None, length: int, room: float, settings: Settings) -> str | None:
    """Why nothing follows a row's length-th new token (G2); None if something does. id None: no token was left."""
    if id is None:
        return "blocked"
    if id in settings.end_ids:
        return "eos"
    if length == settings.max_new_tokens:
        return "length"
    if length == room:  # the window is full
        return "context"
    return None


def check_logits(logits: Tensor, rows: Sequence[int] | None = None) -> None:
    """Each row of (..., V) logits must be a distribution: no NaN or +inf, not only -inf. rows: their numbers."""
    largest = logits.amax(-1)  # (...): NaN wins every comparison, then +inf
    for row, value in zip(rows or range(largest.numel()), largest.flatten().tolist()):
        if not math.isfinite(value):
            raise ValueError(f"largest logit of row {row} is {value}; expected finite logits, or -inf for some")


@has_twin("decoding.fast.ranking")
def draw(logits: Tensor, uniforms: Tensor) -> Tensor:
    """Draw one token per row: walk up the cumulative distribution until it passes the row's uniform number (G6).

    logits: (..., V); uniforms: (...) float64 in [0, 1). Returns (...) ids, each of positive probability.

    >>> draw(torch.tensor([[.2, .5, .3]]).log().repeat(3, 1), torch.tensor([.1, .2, .9], dtype=torch.float64))
    tensor([0, 1, 2])
    """
    mass = logits.double().softmax(-1).cumsum(-1)  # (..., V)
    total = mass[..., -1:].contiguous()  # (..., 1): rounding may leave it short of 1, so the uniform number is scaled
    # right=True is the first mass above the target: an equal one may belong to tokens of probability 0.
    ids = torch.searchsorted(mass, uniforms[..., None] * total, right=True)  # (..., 1)
    last = torch.searchsorted(mass, total)  # (..., 1): the last of positive probability; only a 1 itself would pass it
    return torch.minimum(ids, last).squeeze(-1)
