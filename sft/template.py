"""A conversation <-> token ids, and the mask of what is learnt (S3).

Our layout is `<|prompt|>question<|response|>answer<|endoftext|>`, repeated for more turns; a loaded model keeps the one
that it was made with. The mask is made while the ids are laid out, so nothing ever has to search for where an answer
begins.
"""

import re
from dataclasses import dataclass, replace

from minigpt.tokenizer import END, PROMPT, RESPONSE, Tokenizer

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Message:
    """One turn: role is "system", "user" or "assistant"."""

    role: str
    content: str


@dataclass(frozen=True)
class Example:
    """A conversation to learn from, and where it was read: "file:line"."""

    messages: list[Message]
    source: str = "an example"


@dataclass(frozen=True)
class Template:
    """What stands around the texts of a conversation; names of special tokens in it become their ids."""

    question: str  # opens a question
    answer: str  # closes it and opens the answer
    end: str  # closes the answer, which a model has to learn
    gap: str = ""  # stands before the next question
    system: str = ""  # the system message's place at the very beginning, {}; "": before the first question's text
    default: str | None = None  # the system message when none is given


OURS = Template(PROMPT, RESPONSE, END)
CHATML = Template(
    question="<|im_start|>user\n",
    answer="<|im_end|>\n<|im_start|>assistant\n",
    end="<|im_end|>",
    gap="\n",
    system="<|im_start|>system\n{}<|im_end|>\n",
)
PLAIN = Template("### Instruction:\n", "\n\n### Response:\n", END, gap="\n\n")  # no special token but the end: Alpaca's


def template_of(tok: Tokenizer) -> Template:
    """The layout that a tokenizer calls for: ours, ChatML (SmolLM2), or plain text if it knows no turns (GPT-2).

    ValueError when the model's maker wrote of another one.
    """
    if PROMPT in tok.special or RESPONSE in tok.special:
        return OURS
    if CHATML.end in tok.special:
        default = re.search(r"<\|im_start\|>system(?:\n|\\n)([^{}]*?)<\|im_end\|>", tok.chat_template or "")
        return replace(CHATML, default=default and default.group(1))
    if tok.chat_template:
        raise ValueError(f"the chat template {tok.chat_template!r:.80} is not one that we have: ChatML")
    return replace(PLAIN, end=tok.end)


def split_system(messages: list[Message]) -> tuple[str | None, list[Message]]:
    """A conversation as its system message, if there is one, and its turns.

    ValueError unless the user opens and the assistant answers, by turns.
    """
    first = 1 if messages and messages[0].role == "system" else 0
    for place, message in enumerate(messages[first:]):
        expected = ROLES[1 + place % 2]
        if message.role != expected:
            raise ValueError(f"message {first + place + 1} has the role {message.role!r}: must be {expected!r}")
    if len(messages) == first:
        raise ValueError("the conversation has no message from the user")
    return messages[0].content if first else None, messages[first:]


def encode_conversation(
    tok: Tokenizer, messages: list[Message], template: Template | None = None
) -> tuple[list[int], list[bool]]:
    """Lay a conversation out as (ids, learn): learn[i] says whether ids[i] is a target.

    Learnt are the responses and the end token after each, which teaches the model to stop; the prompts and the tokens
    that open a turn are given. A conversation that ends with a question is opened for its answer, so what a model is
    asked with is a prefix of what it was trained on. Texts are encoded one by one: no merge crosses a seam, and a
    special string inside a text stays plain text. template: None is the one that the tokenizer calls for. ValueError
    when turns are out of order, or when the tokenizer lacks a special token of the template.

    >>> tok = Tokenizer([bytes([byte]) for byte in range(256)])
    >>> ids, learn = encode_conversation(tok, [Message("user", "Hi"), Message("assistant", "Yo")])
    >>> tok.decode(ids), tok.decode(i for i, learnt in zip(ids, learn) if learnt)
    ('<|prompt|>Hi<|response|>Yo<|endoftext|>', 'Yo<|endoftext|>')
    """
    template = template or template_of(tok)
    ids: list[int] = []
    learn: list[bool] = []

    def lay(pieces: list[int], learnt: bool) -> None:
        ids.extend(pieces)
        learn.extend([learnt] * len(pieces))

    question, answer, end, gap = (
        _encode_piece(tok, piece) for piece in (template.question, template.answer, template.end, template.gap)
    )
    system, turns = split_system(messages)
    system, lead = template.default if system is None else system, ""
    if system is not None and template.system:
        opened, closed = template.system.split("{}")
        lay([*_encode_piece(tok, opened), *tok.encode(system), *_encode_piece(tok, closed)], False)
    elif system is not None:
        lead = f"{system}\n\n"
    for place, message in enumerate(turns):
        if message.role == "assistant":
            lay([*tok.encode(message.content), *end], True)
        elif place == 0:
            lay([*question, *tok.encode(lead + message.content), *answer], False)
        else:
            lay([*gap, *question, *tok.encode(message.content), *answer], False)
    return ids, learn


def _encode_piece(tok: Tokenizer, piece: str) -> list[int]:
    """A template's own text; here, and only here, the name of a special token becomes its id."""
    ids = []
    for part in re.split(r"(<\|\w+\|>)", piece):
        if part.startswith("<|"):
            if part not in tok.special:
                raise ValueError(f"the tokenizer lacks {part}: reserve it when it is trained")
            ids.append(tok.special[part])
        else:
            ids += tok.encode(part)
    return ids
