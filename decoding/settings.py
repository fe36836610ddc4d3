"""What a user asks for, checked once before any work: a bad value is a ValueError that names it and what is right."""

import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

Ids = Any  # token ids: a list, a tuple, a NumPy array or an integer tensor


def check_number(name: str, value: float | None, kind: Any, least: float, most: float = math.inf) -> None:
    """kind: Integral or Real; `| None` where a setting may be left out."""
    right = isinstance(value, kind) and not isinstance(value, bool) and (value is None or least <= value <= most)
    word = "whole number" if kind in (Integral, Integral | None) else "number"
    expect(right, name, value, f"a {word} from {least} to {most}")


def expect(is_right: bool, name: str, value: Any, right: str) -> None:
    if not is_right:
        raise ValueError(f"{name} is {value!r}; expected {right}")


@dataclass(frozen=True)
class Settings:
    """The settings of `generate`, which documents them, as one value."""

    max_new_tokens: int
    eos_id: int | Ids | None = None
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0
    no_repeat_ngram: int | None = None
    banned_ids: Ids = ()
    min_new_tokens: int = 0
    stop: str | Sequence[str] = ()
    decode: Callable[[list[int]], str] | None = None
    filters: Sequence[Callable[[Tensor], Tensor]] = ()
    end_ids: frozenset[int] = field(init=False)  # eos_id as a set: none, one or several

    def __post_init__(self):
        check_number("max_new_tokens", self.max_new_tokens, Integral, 1)
        check_number("temperature", self.temperature, Real, 0)
        check_number("top_k", self.top_k, Integral | None, 1)
        check_number("top_p", self.top_p, Real | None, 0, 1)
        check_number("min_p", self.min_p, Real | None, 0, 1)
        check_number("repetition_penalty", self.repetition_penalty, Real, 1, sys.float_info.max)
        check_number("no_repeat_ngram", self.no_repeat_ngram, Integral | None, 1)
        check_number("min_new_tokens", self.min_new_tokens, Integral, 0, self.max_new_tokens)
        eos_ids = [] if self.eos_id is None else self.eos_id
        eos_ids = eos_ids if isinstance(eos_ids, Iterable) else [eos_ids]
        object.__setattr__(self, "end_ids", frozenset(as_ids("eos_id", eos_ids)))
        object.__setattr__(self, "banned_ids", as_ids("banned_ids", self.banned_ids))
        object.__setattr__(self, "stop", as_stop_strings(self.stop))
        from_tokenizer = "a function from ids to text, such as a tokenizer's decode: stop strings are text"
        expect(callable(self.decode) or (self.decode is None and not self.stop), "decode", self.decode, from_tokenizer)
        expect(isinstance(self.filters, Iterable), "filters", self.filters, "a list of functions")
        object.__setattr__(self, "filters", tuple(self.filters))
        for own in self.filters:
            expect(callable(own), "entry of filters", own, "a function from logits (V,) to logits (V,)")

    def check_beam(self, width: int, length_penalty: float) -> None:
        """ValueError for what beam search has no use for: it draws nothing, and ranks ids, not texts."""
        check_number("width", width, Integral, 1, 2**15)  # more would take all memory
        check_number("length_penalty", length_penalty, Real, -10, 10)
        expect(not self.stop, "stop", self.stop, "none: beam search ranks ids and knows no stop strings")

    def check_vocabulary(self, V: int, prompts: Iterable[Ids] = ()) -> None:
        """ValueError if an id is not among the V tokens that the model gives logits for."""
        as_ids("eos_id", self.end_ids, V)
        as_ids("banned_ids", self.banned_ids, V)
        if self.repetition_penalty != 1 or self.no_repeat_ngram is not None:
            as_rows("prompt", prompts, V)


def as_stop_strings(stop: str | Iterable[str] | None) -> tuple[str, ...]:
    """One text or several as a tuple of texts, none of them empty."""
    texts = [stop] if isinstance(stop, str) else [] if stop is None else stop
    expect(isinstance(texts, Iterable) and not isinstance(texts, dict | bytes), "stop", stop, "a text, or several")
    texts = tuple(texts)
    for text in texts:
        expect(isinstance(text, str) and text != "", "entry of stop", text, "a text of at least one character")
    return texts


def use_own(filter: Callable[[Tensor], Tensor], logits: Tensor) -> Tensor:
    """What a user's own filter leaves of logits (..., V). It is called for each row (V,) in which a token is left.

    ValueError unless it returns logits (V,): no NaN, no +inf; -inf marks a token that is out.
    """
    what = f"result of the filter {name_of(filter)}"
    rows = []
    for row in logits.reshape(-1, logits.shape[-1]):
        if row.max() > -math.inf:
            row = filter(row.clone())  # it may write into its argument
            expect(isinstance(row, Tensor) and row.is_floating_point(), what, row, "logits, a floating-point tensor")
            expect(row.shape == logits.shape[-1:], f"shape of the {what}", tuple(row.shape), f"({logits.shape[-1]},)")
            wrong = row.isnan() | (row == math.inf)
            expect(not wrong.any(), f"logit in the {what}", row[wrong][:1].tolist(), "finite logits, or -inf for some")
        rows.append(row)
    return torch.stack(rows).view(logits.shape)


def name_of(filter: Callable) -> str:
    return getattr(filter, "__name__", type(filter).__name__)


def as_ids(name: str, ids: Ids, V: float = math.inf) -> list[int]:
    """One row of ids as a list of ints, each below V."""
    row = ids.tolist() if hasattr(ids, "tolist") else ids  # arrays and tensors
    expect(isinstance(row, Iterable) and not isinstance(row, str | dict), name, ids, "a list of at least one id")
    row = list(row)
    for id in row:
        check_number(f"entry of {name}", id, Integral, 0, V - 1)
    return [int(id) for id in row]


def as_rows(name: str, rows: Iterable[Ids], V: float = math.inf) -> list[list[int]]:
    rows = rows.tolist() if hasattr(rows, "tolist") else rows  # arrays and tensors
    expect(isinstance(rows, Iterable) and not isinstance(rows, str | dict), name, rows, "several rows of ids")
    return [as_ids(f"{name} of row {row}", ids, V) for row, ids in enumerate(rows)]


def as_prompts(model, prompts: Iterable[Ids]) -> list[list[int]]:
    """Rows of ids as lists of ints; none may be empty, or fill the model's window."""
    expect(hasattr(model, "prefill"), "model", type(model).__name__, "one with prefill, as decoding.uncached makes")
    found = as_rows("prompt", prompts, getattr(model, "vocab_size", None) or math.inf)
    for row, ids in enumerate(found):
        expect(len(ids) > 0, f"prompt of row {row}", ids, "a list of at least one id")
        window = f"less than the window of {model.context_length}"
        expect(room_for(model, ids) > 0, f"length of the prompt of row {row}", len(ids), window)
    return found


def room_for(model, prompt: list[int]) -> float:
    """How many new tokens the model's window has room for after the prompt."""
    return math.inf if model.context_length is None else model.context_length - len(prompt)


def as_seeds(seed: int | Sequence[int] | None, rows: int) -> list[int | None]:
    """One seed per row: s + i from an int s, None from None."""
    if seed is None:
        return [None] * rows
    is_one = isinstance(seed, Integral) and not isinstance(seed, bool)
    right = f"None, an int >= 0, or {rows} of them, one per prompt"
    expect(seed >= 0 if is_one else isinstance(seed, Iterable) and not isinstance(seed, str), "seed", seed, right)
    seeds = as_ids("seed", range(seed, seed + rows) if is_one else seed)
    expect(len(seeds) == rows, "seed", seed, right)
    return seeds
