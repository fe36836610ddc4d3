"""The lecture's decoding algorithms and settings by task, by name, as arguments of `generate` or `beam_search`."""

from typing import NamedTuple

from scripts.support.knobs import BEAM_KNOBS, FILTERS, KNOBS


class Strategy(NamedTuple):
    """One algorithm: the lecture's statement about it, its arguments, and what it does."""

    statement: str
    arguments: dict
    meaning: str


STRATEGIES = {
    "greedy": Strategy("G4", {"temperature": 0}, "the most probable token, always"),
    "beam": Strategy("G5", {"width": 5}, "the most probable of the paths kept"),
    "multinomial": Strategy("G6", {}, "drawn from the whole distribution"),
    "top_k": Strategy("G7", {"top_k": 10}, "drawn from the k most probable"),
    "top_p": Strategy("G8", {"top_p": 0.9}, "drawn from the smallest set that reaches p"),
    "temperature": Strategy("G9", {"temperature": 0.7}, "drawn after sharpening"),
    "high_temperature": Strategy("G9", {"temperature": 1.5}, "drawn after flattening"),
    "min_p": Strategy("", {"min_p": 0.1}, "drawn from those near the best"),
}

# The knobs of the algorithms that don't draw; all others have those of every filter.
NO_DRAWING = {
    "greedy": tuple(name for name in FILTERS if not KNOBS[name].draws),
    "beam": (*BEAM_KNOBS, "no_repeat_ngram"),
}

NEW_TOKENS = 110  # long enough for greedy decoding to fall into its loop

# By task (G10): a rule of thumb from OpenAI's developer forum, thread 172683, given there without measurements.
TASKS = {
    "code-generation": {"temperature": 0.2, "top_p": 0.1},
    "creative-writing": {"temperature": 0.7, "top_p": 0.8},
    "chatbot-responses": {"temperature": 0.5, "top_p": 0.5},
    "code-comments": {"temperature": 0.3, "top_p": 0.2},
    "data-analysis-scripting": {"temperature": 0.2, "top_p": 0.1},
    "exploratory-code": {"temperature": 0.6, "top_p": 0.7},
}


def named(name: str) -> dict:
    """The arguments of a strategy or a task. ValueError that lists the names when there is none of this name.

    >>> named("top_k")
    {'top_k': 10}
    """
    if name in TASKS:
        return dict(TASKS[name])
    if name not in STRATEGIES:
        raise ValueError(f"{name!r} is not one of {', '.join([*STRATEGIES, *TASKS])}")
    return dict(STRATEGIES[name].arguments)


def with_knobs(name: str, knobs: dict) -> dict:
    """The arguments of a strategy or a task, some of them set by hand. ValueError that names a knob it doesn't have.

    >>> with_knobs("beam", {"width": 3})
    {'width': 3}
    """
    arguments = named(name)
    has = NO_DRAWING.get(name, FILTERS)
    for knob in knobs:
        if knob not in has:
            flags = ", ".join(f"--{other.replace('_', '-')}" for other in has)
            raise ValueError(f"--{knob.replace('_', '-')}: {name} has no such knob, only {flags}")
    return arguments | knobs
