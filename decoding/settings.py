"""What a user asks for, checked once before any work: settings, prompts, seeds, and the arguments of a filter.

Models, filters and loops below this boundary take what they get. A bad value is a ValueError that names it.
"""

import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import wraps
from numbers import Integral
from typing import Any

from torch import Tensor

from decoding.filters import check_logits

Ids = Any  # token ids: a list, a tuple, a NumPy array or an integer tensor


def expect(right: bool, name: str, value: Any, expected: str) -> None:
    """ValueError that names a bad value and what would be right."""
    if not right:
        raise ValueError(f"{name} is {value!r}; expected {expected}")


@dataclass(frozen=True)
class Settings:
    """The settings of `generate`, as one value. Each is documented there.

    >>> Settings(max_new_tokens=10, top_p=1.5)
    Traceback (most recent call last):
    ValueError: top_p is 1.5; expected a probability, 0 <= p <= 1
    """

    max_new_tokens: int
    eos_id: int | Ids | None = None
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0
    no_repeat_ngram: int | None = None
    banned_ids: Ids = ()
    end_ids: frozenset[int] = field(init=False)  # eos_id as a set: none, one or several

    def __post_init__(self):
        for name in ("max_new_tokens", "top_k", "no_repeat_ngram"):
            value = getattr(self, name)
            is_off = value is None and name != "max_new_tokens"
            expect(is_off or (isinstance(value, Integral) and value >= 1), name, value, "a whole number >= 1")
        for name in ("top_p", "min_p"):
            value = getattr(self, name)
            expect(value is None or 0 <= value <= 1, name, value, "a probability, 0 <= p <= 1")
        t, penalty = self.temperature, self.repetition_penalty
        expect(t >= 0, "temperature", t, "a number >= 0")
        expect(1 <= penalty < math.inf, "repetition_penalty", penalty, "a number >= 1")

        eos_ids = self.eos_id if isinstance(self.eos_id, Iterable) else [self.eos_id]
        object.__setattr__(
            self, "end_ids", frozenset() if self.eos_id is None else frozenset(as_ids("eos_id", eos_ids))
        )
        object.__setattr__(self, "banned_ids", as_ids("banned_ids", self.banned_ids))

    def check_vocabulary(self, V: int, prompts: list[list[int]]) -> None:
        """ValueError if an id is not among the V tokens that the model gives logits for."""
        as_ids("eos_id", self.end_ids, V)
        as_ids("banned_ids", self.banned_ids, V)
        if self.repetition_penalty != 1 or self.no_repeat_ngram is not None:
            for row, prompt in enumerate(prompts):
                as_ids(f"prompt of row {row}", prompt, V)


def as_ids(name: str, ids: Ids, V: int | None = None) -> list[int]:
    """One row of ids as a list of ints; ValueError if one is not in the vocabulary of V tokens."""
    row = ids.tolist() if hasattr(ids, "tolist") else ids  # arrays and tensors
    expect(isinstance(row, Iterable) and not isinstance(row, str | dict), name, ids, "a list of at least one id")
    row = list(row)
    for id in row:
        known = isinstance(id, Integral) and id >= 0 and (V is None or id < V)
        expect(known, f"id in {name}", id, "a whole number >= 0" if V is None else f"a whole number from 0 to {V - 1}")
    return [int(id) for id in row]


def as_prompts(model, prompts: Iterable[Ids]) -> list[list[int]]:
    """Rows of ids as lists of ints; ValueError if one is empty, or unknown to the model, or fills its window."""
    window, found = model.context_length, []
    for row, prompt in enumerate(prompts):
        name = f"prompt of row {row}"
        ids = as_ids(name, prompt, getattr(model, "vocab_size", None))
        expect(len(ids) > 0, name, prompt, "a list of at least one id")
        fits = window is None or len(ids) < window
        expect(fits, f"length of the {name}", len(ids), f"less than the window of {window}")
        found.append(ids)
    return found


def room_for(model, prompt: list[int]) -> float:
    """How many new tokens the model's window has room for after the prompt."""
    return math.inf if model.context_length is None else model.context_length - len(prompt)


def as_seeds(seed: int | Sequence[int] | None, rows: int) -> list[int | None]:
    """One seed per row; None is a fresh one."""
    if seed is None:
        return [None] * rows
    seeds = seed.tolist() if hasattr(seed, "tolist") else seed
    if isinstance(seeds, Integral):
        seeds = [seeds + row for row in range(rows)]
    right = isinstance(seeds, Sequence) and all(isinstance(each, Integral) and each >= 0 for each in seeds)
    expect(right and len(seeds) == rows, "seed", seed, f"None, an int >= 0, or {rows} of them, one per prompt")
    return [int(each) for each in seeds]


def checked(filter: Callable) -> Callable:
    """The filter for users: its logits, histories and setting are checked, and then it runs as it is written."""
    signature = inspect.signature(filter)  # logits, sometimes histories, and the setting
    name = {"ban": "banned_ids"}.get(filter.__name__, filter.__name__)

    @wraps(filter)
    def call(*arguments, **named) -> Tensor:
        logits, *histories, setting = signature.bind(*arguments, **named).arguments.values()
        expect(logits.is_floating_point(), "dtype of the logits", logits.dtype, "a floating-point one")
        check_logits(logits)
        settings = Settings(max_new_tokens=1, **{name: setting})
        settings.check_vocabulary(logits.shape[-1], [])

        if histories:  # one list per row; for logits (V,) the list itself
            per_row = histories if logits.dim() == 1 else histories[0]
            per_row = [as_ids("history", ids, logits.shape[-1]) for ids in per_row]
            rows = logits[..., 0].numel()
            expect(len(per_row) == rows, "number of histories", len(per_row), f"{rows}, one per row of logits")
            histories = per_row if logits.dim() == 1 else [per_row]
        return filter(logits, *histories, getattr(settings, name))

    return call
