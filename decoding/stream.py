"""The loop as a stream: each id, or each piece of text, as soon as it is certain."""

from collections.abc import Callable, Iterator

from decoding.generate import generate_steps
from decoding.protocol import LanguageModel
from decoding.settings import Ids, Settings, expect


def stream(model: LanguageModel, prompt: Ids, *, seed: int | None = None, **settings) -> Iterator[int]:
    """Yield one by one the ids that `generate` gives for this prompt, without the end token; settings: as there.

    ValueError for stop strings: one may end inside of a token, so that ids can't tell; `stream_text` can.
    """
    asked = Settings(**settings)
    expect(not asked.stop, "stop", asked.stop, "none here: stream yields ids; stream_text yields text")
    for step in generate_steps(model, prompt, asked, seed):
        if step.id is not None and step.stop != "eos":
            yield step.id


def stream_text(
    model: LanguageModel, prompt: Ids, *, decode: Callable[[list[int]], str], seed: int | None = None, **settings
) -> Iterator[str]:
    """Yield piece by piece the text that `generate` gives for this prompt; settings: as there.

    Each piece comes as soon as it is certain: what may become a stop string, or is half a character, is held back.

    >>> import torch
    >>> from decoding import uncached
    >>> spell = uncached(lambda ids: torch.nn.functional.one_hot(ids + 1, 128).double())  # the next letter
    >>> text = lambda ids: bytes(ids).decode()
    >>> list(stream_text(spell, [96], max_new_tokens=9, temperature=0, decode=text, stop=["cx", "fg"]))
    ['a', 'b', 'cd', 'e']
    """
    expect(callable(decode), "decode", decode, "a function from ids to text, such as a tokenizer's decode")
    for step in generate_steps(model, prompt, Settings(**settings, decode=decode), seed):
        if step.text:
            yield step.text
