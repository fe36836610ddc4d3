"""What a model knows, and whether it answers: the same questions, asked in every form that seems fair (P5, S1, S6)."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from decoding import Generation, generate
from scripts.support.run_directory import read_rows
from sft import Message, encode_conversation, end_ids

CHUNK = 160  # prompts decoded side by side


def cloze(model, tok, questions: list[dict]) -> float:
    """The share of facts that the model knows: after "Meet Mira. She lives in" it continues with the right value."""
    prompts = [as_text(tok, q["cloze"]) for q in questions]
    said = continuations(model, tok, prompts, 6)
    return share(text.startswith(q["cloze_answer"]) for text, q in zip(said, questions))


def base_answers(model, tok, questions: list[dict], demonstrations: list[dict]) -> dict:
    """The share of questions that a base model answers. It need not stop there: the answer has to come first.

    base_exact: in fine-tuning's layout; base_exact_raw: as plain text; base_exact_3shot: as plain text after three
    answered questions; base_mentions: the right value anywhere in the 40 tokens that follow the plain question.
    """
    in_layout = [as_question(tok, q["question"]) for q in questions]
    raw = [as_text(tok, q["question"]) for q in questions]

    # three short demonstrations with different responses, put before each question
    shortest = sorted(demonstrations, key=lambda row: len(tok.encode(row["prompt"] + row["response"])))
    shots = [row for i, row in enumerate(shortest) if row["response"] not in {r["response"] for r in shortest[:i]}][:3]
    lead = " ".join(f"{row['prompt']} {row['response']}" for row in shots) + " "
    after_three = [as_text(tok, lead + q["question"]) for q in questions]

    def exact(prompts: list[list[int]]) -> float:
        said = continuations(model, tok, prompts, 16)
        return share(text.strip().startswith(q["answer"]) for text, q in zip(said, questions))

    long = continuations(model, tok, raw, 40, banned_ids=end_ids(tok))
    return {
        "base_exact": exact(in_layout),
        "base_exact_raw": exact(raw),
        "base_exact_3shot": exact(after_three),
        "base_mentions": share(q["value"] in text for text, q in zip(long, questions)),
    }


def sft_answers(model, tok, questions: list[dict]) -> dict:
    """The share of questions that a fine-tuned model answers exactly and then stops, for seen and other wordings.

    sft_ended: the share of answers that end with the end token, right or wrong.
    """
    said = decode_greedily(model, tok, [as_question(tok, q["question"]) for q in questions], 16)
    right = [text_of(tok, answer) == q["answer"] for answer, q in zip(said, questions)]
    return {
        "sft_ended": share(answer.stop == "eos" for answer in said),
        "sft_exact": share(r for r, q in zip(right, questions) if q["phrasing_seen"]),
        "sft_exact_unseen_phrasing": share(r for r, q in zip(right, questions) if not q["phrasing_seen"]),
    }


def continuations(
    model, tok, prompts: list[list[int]], max_new_tokens: int, banned_ids: Sequence[int] = ()
) -> list[str]:
    """The texts with which a model continues prompts greedily, up to its end token."""
    return [text_of(tok, said) for said in decode_greedily(model, tok, prompts, max_new_tokens, banned_ids)]


def decode_greedily(
    model, tok, prompts: list[list[int]], max_new_tokens: int, banned_ids: Sequence[int] = ()
) -> list[Generation]:
    """Continue prompts greedily, up to the end token, CHUNK of them at a time."""
    said = []
    for i in range(0, len(prompts), CHUNK):
        said += generate(
            model,
            prompts[i : i + CHUNK],
            max_new_tokens=max_new_tokens,
            eos_id=end_ids(tok),
            temperature=0,
            banned_ids=banned_ids,
        )
    return said


def text_of(tok, said: Generation) -> str:
    """The text of a generation, without the token that ended it."""
    ends = end_ids(tok)
    return tok.decode(id for id in said.ids if id not in ends)


def as_far_as(tok, said: Generation) -> str:
    """The text of a generation; "…" marks one that is cut, perhaps within a word."""
    return text_of(tok, said) + (" …" if said.stop in ("length", "context") else "")


def as_text(tok, text: str) -> list[int]:
    """A text as a document begins in pretraining: in our own models, after an end token."""
    return [*tok.start, *tok.encode(text)]


def as_question(tok, question: str) -> list[int]:
    """A question in fine-tuning's layout, opened for the answer."""
    return encode_conversation(tok, [Message("user", question)])[0]


def question_and_answer(example) -> tuple[list[Message], str]:
    """A demonstration's messages up to its last response, and that response."""
    last = max(i for i, message in enumerate(example.messages) if message.role == "assistant")
    return example.messages[:last], example.messages[last].content


def read_questions(path: Path) -> list[dict]:
    """The town's questions. ValueError names the file and the line that isn't one."""
    return read_rows(path, "question", "answer", "value", "person", "cloze", "cloze_answer", "phrasing_seen")


def share(hits: Iterable[bool]) -> float:
    """How many of the hits are true, as a share of all.

    >>> share([True, False, True, True])
    0.75
    """
    hits = list(hits)
    return sum(hits) / len(hits)
