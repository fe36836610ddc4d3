"""The knobs of decoding: flags of the commands that decode, commands while talking, sliders of the page."""

from collections.abc import Callable
from typing import NamedTuple


class Knob(NamedTuple):
    kind: Callable  # from what is typed
    default: float | int | None
    meaning: str
    draws: bool = False  # it has no effect on greedy decoding, which draws nothing


KNOBS = {
    "temperature": Knob(float, 0.0, "0 is greedy and draws nothing; 1 draws as the model says; more is wilder", True),
    "top_k": Knob(int, None, "draw from the k most probable tokens only", True),
    "top_p": Knob(float, None, "draw from the smallest set of tokens that reaches p", True),
    "min_p": Knob(float, None, "draw from the tokens at least p times as probable as the best", True),
    "repetition_penalty": Knob(float, 1.0, "above 1, tokens that came before become less likely"),
    "no_repeat_ngram": Knob(int, None, "this many tokens in a row never come twice"),
    "max_new_tokens": Knob(int, 60, "the longest answer"),
    "seed": Knob(int, None, "the same seed gives the same answer", True),
}
FILTERS = tuple(name for name in KNOBS if name not in ("max_new_tokens", "seed"))  # those that turn a filter


# What only some commands have: beam search draws nothing, and stop strings are text.
BEAM_KNOBS = {
    "width": Knob(int, None, "beam search keeps this many paths"),
    "length_penalty": Knob(float, 0.0, "beam search: 0 ranks by the whole probability, 1 by the mean per token"),
}
STOP = "ends the text, and isn't shown; \\n in it is a new line"


def as_stop(text: str) -> str:
    r"""A stop string as it is typed on one line: \n is a new line, \t a tab.

    >>> as_stop(r"\n\nYou:")
    '\n\nYou:'
    """
    return text.replace(r"\n", "\n").replace(r"\t", "\t")


def read_knob(name: str, value: str) -> float | int | None:
    """A knob's value from what was typed; its default if nothing was.

    >>> read_knob("top_k", "3"), read_knob("top_k", "")
    (3, None)
    """
    knob = KNOBS[name]
    if not value:
        return knob.default
    try:
        return knob.kind(value)
    except ValueError:
        raise ValueError(f"{name} is {value!r}; expected a {'whole ' if knob.kind is int else ''}number") from None


def shown(value: object) -> str:
    return "off" if value is None else str(value)
