"""The lecture's decoding algorithms by name, as arguments of `generate` or `beam_search`, and figures about a text."""

STRATEGIES = {  # name: (statement, arguments, what it does)
    "greedy": ("G4", {"temperature": 0}, "the most probable token, always"),
    "beam": ("G5", {"width": 5}, "the most probable of the paths kept"),
    "multinomial": ("G6", {}, "drawn from the whole distribution"),
    "top_k": ("G7", {"top_k": 10}, "drawn from the k most probable"),
    "top_p": ("G8", {"top_p": 0.9}, "drawn from the smallest set that reaches p"),
    "temperature": ("G9", {"temperature": 0.7}, "drawn after sharpening"),
    "min_p": ("", {"min_p": 0.1}, "drawn from those near the best"),
}

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
    """The arguments of a strategy or a task. ValueError that lists the names when there is none of this name."""
    if name in TASKS:
        return dict(TASKS[name])
    if name not in STRATEGIES:
        raise ValueError(f"{name!r} is not one of {', '.join([*STRATEGIES, *TASKS])}")
    return dict(STRATEGIES[name][1])


def continue_prompt(model, prompt: list[int], knobs: dict, **shared):
    """Decode with a strategy's arguments: one Generation, the best one for beam search, which draws nothing."""
    from decoding import beam_search, generate

    arguments = {**shared, **knobs}
    if "width" not in knobs:
        return generate(model, [prompt], **arguments)[0]
    arguments.pop("seed", None)
    return beam_search(model, prompt, **arguments)[0]


def repetition(ids: list[int], n: int = 4) -> float:
    """The share of n-grams that occurred before in the same text.

    >>> repetition([1, 2, 3, 4, 1, 2, 3, 4])             # one of five
    0.19999999999999996
    """
    grams = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def distinct2(ids: list[int]) -> float:
    """The share of pairs of neighbours that are different ones (Li et al. 2016, arXiv:1510.03055).

    >>> distinct2([1, 2, 1, 2])
    0.6666666666666666
    """
    pairs = list(zip(ids, ids[1:]))
    return len(set(pairs)) / len(pairs) if pairs else 1.0
