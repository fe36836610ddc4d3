"""A conversation <-> token ids, and the mask of what is learnt (S3).

Our layout is `<|prompt|>question<|response|>answer<|endoftext|>`, repeated for each further question; a model from
elsewhere keeps its own. The mask is made while laying out, so nothing has to search for where an answer begins.
"""

import re
from dataclasses import dataclass, replace
from functools import lru_cache, partial

from minigpt.tokenizer import END, PROMPT, RESPONSE, Tokenizer

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Message:
    """What one side says: role is "system", "user" or "assistant"."""

    role: str
    content: str


@dataclass(frozen=True)
class Template:
    """The fixed text around the messages. In it, and only in it, the name of a special token stands for its id."""

    question: str  # before a question
    answer: str  # between a question and its answer
    end: str  # after an answer; learnt, so that the model stops
    gap: str = ""  # before every question but the first
    system: tuple[str, str] | None = None  # around the system message; None: it joins the first question's text
    default: str | None = None  # the system message when the conversation has none


OURS = Template(PROMPT, RESPONSE, END)
CHATML = Template(
    question="<|im_start|>user\n",
    answer="<|im_end|>\n<|im_start|>assistant\n",
    end="<|im_end|>",
    gap="\n",
    system=("<|im_start|>system\n", "<|im_end|>\n"),
)
PLAIN = Template("### Instruction:\n", "\n\n### Response:\n", END, gap="\n\n")  # Alpaca's; only its end is special


def encode_conversation(
    tok: Tokenizer, messages: list[Message], template: Template | None = None
) -> tuple[list[int], list[bool]]:
    """Encode a conversation as (ids, learn): learn[i] says whether ids[i] is a target.

    Responses are learnt, with the end token after each. A conversation that ends with a question is opened for its
    answer, so the prompt at inference is a prefix of what was trained. Texts are encoded one by one: no merge crosses a
    seam, and the name of a special token inside a message stays plain text. template=None: the tokenizer's own.
    ValueError when roles are out of order, or when the tokenizer lacks a special token that is needed.

    >>> tok = Tokenizer([bytes([byte]) for byte in range(256)])
    >>> ids, learn = encode_conversation(tok, [Message("user", "Hi"), Message("assistant", "Yo")])
    >>> tok.decode(ids), tok.decode(i for i, learnt in zip(ids, learn) if learnt)
    ('<|prompt|>Hi<|response|>Yo<|endoftext|>', 'Yo<|endoftext|>')
    """
    template = template or template_of(tok)
    fixed = partial(fixed_ids, tok)
    system, dialogue = split_system(messages)
    system = template.default if system is None else system
    ids, learn = [], []

    def add(new_ids: list[int], learnt: bool) -> None:
        ids.extend(new_ids)
        learn.extend([learnt] * len(new_ids))

    # the system message: between marks of its own, or in front of the first question's text
    lead = ""
    if system is not None and template.system:
        before, after = template.system
        add([*fixed(before), *tok.encode(system), *fixed(after)], learnt=False)
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
    """The system message's text, if there is one, and the messages after it.

    ValueError unless user and assistant alternate after it, the user first.
    """
    start = 1 if messages and messages[0].role == "system" else 0
    for place, message in enumerate(messages[start:]):
        expected = ROLES[1 + place % 2]
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
        if not part.startswith("<|"):
            ids += tok.encode(part)
        elif part in tok.special:
            ids.append(tok.special[part])
        else:
            raise ValueError(f"the tokenizer lacks {part}: reserve it when it is trained")
    return tuple(ids)


def template_of(tok: Tokenizer) -> Template:
    """The tokenizer's own template: ours, ChatML (SmolLM2) or Alpaca's plain text (GPT-2). ValueError for another."""
    if PROMPT in tok.special or RESPONSE in tok.special:
        return OURS
    if CHATML.end in tok.special:
        default = re.search(r"<\|im_start\|>system(?:\n|\\n)([^{}]*?)<\|im_end\|>", tok.chat_template or "")
        return replace(CHATML, default=default and default.group(1))
    if tok.chat_template:
        raise ValueError(f"the chat template {tok.chat_template!r:.80} is not one that we have: ChatML")
    return replace(PLAIN, end=tok.end)
