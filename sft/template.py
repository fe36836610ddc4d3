"""A conversation <-> token ids, and the mask of what is learnt (S3).

The layout is `<|prompt|>question<|response|>answer<|endoftext|>`, repeated for more turns. The mask is made while the
ids are laid out, so nothing ever has to search for where an answer begins.
"""

from dataclasses import dataclass

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


def encode_conversation(tok: Tokenizer, messages: list[Message]) -> tuple[list[int], list[bool]]:
    """Lay a conversation out as (ids, learn): learn[i] says whether ids[i] is a target.

    Learnt are the responses and the end token after each, which teaches the model to stop; the prompts and the tokens
    that open a turn are given. A conversation that ends with a question is opened for its answer, so what a model is
    asked with is a prefix of what it was trained on. Texts are encoded one by one: no merge crosses a seam, and a
    special string inside a text stays plain text. ValueError when turns are out of order.

    >>> tok = Tokenizer([bytes([byte]) for byte in range(256)])
    >>> ids, learn = encode_conversation(tok, [Message("user", "Hi"), Message("assistant", "Yo")])
    >>> tok.decode(ids), tok.decode(i for i, learnt in zip(ids, learn) if learnt)
    ('<|prompt|>Hi<|response|>Yo<|endoftext|>', 'Yo<|endoftext|>')
    """
    missing = [name for name in (PROMPT, RESPONSE, END) if name not in tok.special]
    if missing:
        raise ValueError(f"the tokenizer lacks {', '.join(missing)}: reserve them when it is trained")
    ids: list[int] = []
    learn: list[bool] = []

    def lay(pieces: list[int], learnt: bool) -> None:
        ids.extend(pieces)
        learn.extend([learnt] * len(pieces))

    system, expected = "", "user"
    for place, message in enumerate(messages):
        if message.role == "system" and place == 0:
            system = message.content + "\n\n"
            continue
        if message.role != expected:
            raise ValueError(f"message {place + 1} has the role {message.role!r}: must be {expected!r}")
        if message.role == "user":
            lay([tok.special[PROMPT], *tok.encode(system + message.content), tok.special[RESPONSE]], False)
            system, expected = "", "assistant"
        else:
            lay([*tok.encode(message.content), tok.special[END]], True)
            expected = "user"
    if not ids:
        raise ValueError("the conversation has no message from the user")
    return ids, learn
