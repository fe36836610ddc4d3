"""The layout that a model's maker wrote as a chat template: rendered and obeyed, or refused by name.

Ids are those of `transformers`' apply_chat_template, but for two things: the name of a special token inside a message
stays plain text, and an answer is encoded apart from its prompt, so no merge crosses that seam.
"""

import re
from collections.abc import Callable
from functools import cache, lru_cache, partial
from itertools import chain

from minigpt.tokenizer import Tokenizer

from ..template import Message, encode_conversation

PRIVATE = 0xF0000  # characters without a meaning


def lay_out(tok: Tokenizer, messages: list[Message]) -> tuple[list[int], list[bool]]:
    """A conversation as (ids, learn), by the tokenizer's chat template. ValueError when learning it isn't safe.

    What is asked must be the beginning of what is trained: the text up to an answer, opened for it, is rendered once
    more without the answer and must be the same. The answer and the special token after it are learnt.
    """
    names = re.compile("|".join(map(re.escape, sorted(tok.special, key=len, reverse=True))) or "(?!)")
    hidden, undo = _hide(messages, names)
    text = cache(lambda upto, opened: _render(tok, hidden[:upto], opened))
    whole = text(len(messages), messages[-1].role == "user")
    ids, learn, done = [], [], 0

    def add(end: int, learnt: bool) -> None:
        nonlocal done
        new = _encode(tok, whole[done:end], names, undo)
        ids.extend(new)
        learn.extend([learnt] * len(new))
        done = end

    # each message has to appear where it belongs
    for place, message in enumerate(hidden):
        if message["role"] != "assistant":
            upto = text(place + 1, True) if message["role"] == "user" else whole
            _found(tok, message, upto[done:])
            continue
        asked, answered = text(place, True), text(place + 1, False)
        if not (answered.startswith(asked) and whole.startswith(answered)):
            raise _refusal(tok, "lays a question out differently once it is answered: it can't be learnt")
        given = answered[len(asked) :]
        ends = [match.end() for match in names.finditer(given)]
        if not ends:
            raise _refusal(tok, "puts no special token after an answer: nothing would end it")
        _found(tok, message, given[: ends[-1]])
        add(len(asked), learnt=False)
        add(len(asked) + ends[-1], learnt=True)
    add(len(whole), learnt=False)
    return ids, learn


def end_ids(tok: Tokenizer) -> tuple[int, ...]:
    """The ids that end an answer: the one that fine-tuning teaches, then those that the model's files name.

    >>> end_ids(Tokenizer([bytes([byte]) for byte in range(256)]))
    (256,)
    """
    taught = _taught(tok, tok.chat_template)
    known = [] if isinstance(taught, ValueError) else [taught]  # else texts can be continued all the same
    return tuple(dict.fromkeys([*known, *tok.end_ids]))


def require_layout(tok: Tokenizer) -> None:
    """ValueError when conversations have no layout that we can use."""
    if isinstance(problem := _taught(tok, tok.chat_template), ValueError):
        raise problem


@lru_cache(maxsize=16)  # of a failure, too: a hostile template takes seconds
def _taught(tok: Tokenizer, chat_template: str | None) -> int | ValueError:
    """The token with which a conversation ends an answer, or why there is none."""
    words = chain(["Hi"], map(chr, range(ord("!"), 0x110000)))
    has = lambda word: all(bytes([byte]) in tok.ranks for byte in word.encode(errors="replace"))
    word = next(filter(has, words), "Hi")  # of a vocabulary without these letters, the first character that it has
    try:
        ids, learn = encode_conversation(tok, [Message("user", word), Message("assistant", word)])
    except ValueError as problem:
        return problem
    return [i for i, learnt in zip(ids, learn) if learnt][-1]


def _render(tok: Tokenizer, messages: list[dict], opened: bool) -> str:
    try:
        from .sandbox import render
    except ImportError as problem:
        raise ValueError("this model has a chat template: to use it, install jinja2 (pip install jinja2)") from problem
    start = {"bos_token": tok.special_names[tok.start[0]]} if tok.start else {}
    named = start | {"eos_token": tok.end} | tok.names
    named = {key: name for key, name in named.items() if name is not None}
    try:
        return render(tok.chat_template, messages, add_generation_prompt=opened, tools=None, documents=None, **named)
    except ValueError as problem:
        raise _refusal(tok, f"is refused: {problem}") from problem


def _refusal(tok: Tokenizer, why: str) -> ValueError:
    return ValueError(f"the chat template {tok.chat_template[:80]!r} {' '.join(why.split())}")


def _found(tok: Tokenizer, message: dict, text: str) -> None:
    if message["content"].strip() not in text:
        raise _refusal(tok, f"leaves out or changes what the {message['role']} says")


def _hide(messages: list[Message], names: re.Pattern) -> tuple[list[dict], Callable[[str], str]]:
    """The messages as a template takes them, with a code for each special token's name; and what undoes the codes."""
    said = "".join(message.content for message in messages)
    mark = next(chr(i) for i in range(0xFDD0, 0x110000) if chr(i) not in said)  # first the characters that no text has
    known = sorted(set(names.findall(said)))
    hide = lambda match: mark + chr(PRIVATE + known.index(match.group()))
    undo = partial(re.sub, f"{mark}(.)", lambda match: known[ord(match.group(1)) - PRIVATE])
    return [{"role": m.role, "content": names.sub(hide, m.content)} for m in messages], undo


def _encode(tok: Tokenizer, text: str, names: re.Pattern, undo: Callable[[str], str]) -> list[int]:
    """The ids of rendered text: in it, the name of a special token is that token; in what was hidden, it is text."""
    ids, done = [], 0
    for match in names.finditer(text):
        ids += [*tok.encode(undo(text[done : match.start()])), tok.special[match.group()]]
        done = match.end()
    return ids + tok.encode(undo(text[done:]))
