"""A conversation <-> token ids, and the mask of what is learnt (S3).

Our layout is `<|prompt|>question<|response|>answer<|endoftext|>`, repeated for each further question; a model from
elsewhere keeps its own: the chat template that its maker wrote is obeyed, or refused (files/chat_template.py).
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache, partial

from minigpt.tokenizer import END, PROMPT, RESPONSE, Tokenizer

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Message:
    """What one side says."""

    role: str  # one of ROLES
    content: str


@dataclass(frozen=True)
class Template:
    """The fixed text around the messages. In it, and only in it, the name of a special token stands for its id."""

    question: str  # before a question
    answer: str  # between a question and its answer
    end: str  # after an answer; learnt, so that the model stops
    gap: str = ""  # before every question but the first
    system: tuple[str, str] | None = None  # around the system message; None: it joins the first question's text


OURS = Template(PROMPT, RESPONSE, END)
CHATML = Template("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>", "\n",
    system=("<|im_start|>system\n", "<|im_end|>\n"))  # fmt: skip
ALPACA = Template("### Instruction:\n", "\n\n### Response:\n", END, gap="\n\n")  # only its end is special


def encode_conversation(
    tok: Tokenizer, messages: list[Message], template: Template | None = None
) -> tuple[list[int], list[bool]]:
    """Encode a conversation as (ids, learn): learn[i] says whether ids[i] is a target.

    Responses are learnt, with the end token after each. A conversation that ends with a question is opened for its
    answer: a prefix of what was trained. Texts are encoded one by one: no merge crosses a seam, and the name of a
    special token inside a message stays plain text. template=None: the tokenizer's own. ValueError for roles out of
    order, for a special token that the tokenizer lacks, or a chat template that can't be used.

    >>> tok = Tokenizer([bytes([byte]) for byte in range(256)])
    >>> ids, learn = encode_conversation(tok, [Message("user", "Hi"), Message("assistant", "Yo")])
    >>> tok.decode(ids), tok.decode(i for i, learnt in zip(ids, learn) if learnt)
    ('<|prompt|>Hi<|response|>Yo<|endoftext|>', 'Yo<|endoftext|>')
    """
    if not isinstance(messages, Iterable):
        raise ValueError(f"messages is {messages!r:.60}: must be a list of Messages")
    messages = list(messages)
    system, dialogue = split_system(messages)
    if template is None and tok.chat_template:
        from .files.chat_template import lay_out

        return lay_out(tok, messages)
    template = template or template_of(tok)
    fixed = partial(fixed_ids, tok)
    ids, learn = [], []

    def add(new_ids: list[int], learnt: bool) -> None:
        ids.extend(new_ids)
        learn.extend([learnt] * len(new_ids))

    # the begin token that another maker's tokenizer asks for
    if tok.start != [tok.special.get(tok.end)]:
        add(tok.start, learnt=False)

    # the system message: between marks of its own, or in front of the first question's text
    lead = ""
    if system is not None and template.system:
        add([*fixed(template.system[0]), *tok.encode(system), *fixed(template.system[1])], learnt=False)
    elif system is not None:
        lead = f"{system}\n\n"

    # questions and answers
    for place, message in enumerate(dialogue):
        if message.role == "assistant":
            add([*tok.encode(message.content), *fixed(template.end)], learnt=True)
        else:
            gap = template.gap if place else ""
            text = message.content if place else lead + message.content
            add([*fixed(gap), *fixed(template.question), *tok.encode(text), *fixed(template.answer)], learnt=False)
    return ids, learn


def split_system(messages: list[Message]) -> tuple[str | None, list[Message]]:
    """The system message's text or None, and the messages after it: ValueError unless user and assistant alternate."""
    for place, message in enumerate(messages, 1):
        if not (isinstance(message, Message) and isinstance(message.content, str)):
            raise ValueError(f"message {place} is {message!r:.60}: must be a Message, a role and a text")
    start = 1 if messages and messages[0].role == "system" else 0
    for place, message in enumerate(messages[start:]):
        expected = "user" if place % 2 == 0 else "assistant"
        if message.role != expected:
            raise ValueError(f"message {start + place + 1} has the role {message.role!r}: must be {expected!r}")
    if len(messages) == start:
        raise ValueError("the conversation has no message from the user")
    return messages[0].content if start else None, messages[start:]


@lru_cache(maxsize=64)  # the same few for every conversation
def fixed_ids(tok: Tokenizer, text: str) -> tuple[int, ...]:
    """Encode a template's text: names of special tokens become their ids. ValueError when the tokenizer lacks one."""
    ids = []
    for part in re.split(r"(<\|\w+\|>)", text):
        if part.startswith("<|") and part not in tok.special:
            raise ValueError(f"the tokenizer lacks {part}: reserve it when it is trained")
        ids += [tok.special[part]] if part in tok.special else tok.encode(part)
    return tuple(ids)


def template_of(tok: Tokenizer) -> Template:
    """The layout for a tokenizer without a chat template, by its special tokens: ours, ChatML, or Alpaca's text.

    In Alpaca's plain text a question can forge a turn: "\\n\\n### Response:\\n" is text like any other.
    """
    if PROMPT in tok.special or RESPONSE in tok.special:
        return OURS
    return CHATML if {"<|im_start|>", "<|im_end|>"}.issubset(tok.special) else replace(ALPACA, end=tok.end)
