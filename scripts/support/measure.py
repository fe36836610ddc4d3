"""What a model knows and whether it answers: the same questions put to it in every form that seems fair."""

import json
from pathlib import Path

CHUNK = 160  # questions decoded side by side


def read_questions(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def continuations(model, tok, prompts: list[list[int]], max_new_tokens: int, endless: bool = False) -> list[str]:
    """What a model says greedily after each prompt, up to its end token, or without one."""
    return [text for text, _ in said_and_stop(model, tok, prompts, max_new_tokens, endless)]


def said_and_stop(model, tok, prompts, max_new_tokens: int, endless: bool = False) -> list[tuple[str, str]]:
    """The same, each with why it ended: "eos", "length" or "context"."""
    from decoding import generate

    end, said = tok.end_id, []
    banned = [end] if endless else []
    for i in range(0, len(prompts), CHUNK):
        chunk = prompts[i : i + CHUNK]
        for g in generate(model, chunk, max_new_tokens=max_new_tokens, eos_id=end, temperature=0, banned_ids=banned):
            said.append((tok.decode(token for token in g.ids if token != end), g.stop))
    return said


def as_text(tok, text: str) -> list[int]:
    """A text as a document begins in pretraining: ours after an end token."""
    return [*tok.start, *tok.encode(text)]


def as_question(tok, question: str) -> list[int]:
    """A question in the layout of fine-tuning, opened for the answer."""
    from sft import Message, encode_conversation

    return encode_conversation(tok, [Message("user", question)])[0]


def share(hits) -> float:
    hits = list(hits)
    return sum(hits) / len(hits)


def cloze(model, tok, questions: list[dict]) -> float:
    """How often the model, told "Meet Mira. She lives in", goes on with the right value: does it know?"""
    said = continuations(model, tok, [as_text(tok, q["cloze"]) for q in questions], 6)
    return share(text.startswith(q["cloze_answer"]) for text, q in zip(said, questions))


def base_answers(model, tok, questions: list[dict], demonstrations: list[dict]) -> dict:
    """How often a base model answers. It need not stop there: what counts is that the answer comes first.

    base_exact: in fine-tuning's layout; base_exact_raw: as plain text; base_exact_3shot: as plain text after three
    answered questions; base_mentions: the right value anywhere in 40 tokens that follow the plain question.
    """
    shortest = sorted(demonstrations, key=lambda row: len(tok.encode(row["prompt"] + row["response"])))
    shots = [row for i, row in enumerate(shortest) if row["response"] not in {r["response"] for r in shortest[:i]}][:3]
    lead = " ".join(f"{row['prompt']} {row['response']}" for row in shots) + " "

    def exact(prompts: list[list[int]]) -> float:
        said = continuations(model, tok, prompts, 16)
        return share(text.strip().startswith(q["answer"]) for text, q in zip(said, questions))

    raw = [as_text(tok, q["question"]) for q in questions]
    long = continuations(model, tok, raw, 40, endless=True)
    return {
        "base_exact": exact([as_question(tok, q["question"]) for q in questions]),
        "base_exact_raw": exact(raw),
        "base_exact_3shot": exact([as_text(tok, lead + q["question"]) for q in questions]),
        "base_mentions": share(q["value"] in text for text, q in zip(long, questions)),
    }


def sft_answers(model, tok, questions: list[dict]) -> dict:
    """How often the fine-tuned model gives exactly the answer and stops, for wordings met in fine-tuning and others.

    sft_ended: how often it ends by the end token, right or wrong.
    """
    said = said_and_stop(model, tok, [as_question(tok, q["question"]) for q in questions], 16)
    right = [text == q["answer"] for (text, _), q in zip(said, questions)]
    return {
        "sft_ended": share(stop == "eos" for _, stop in said),
        "sft_exact": share(r for r, q in zip(right, questions) if q["phrasing_seen"]),
        "sft_exact_unseen_phrasing": share(r for r, q in zip(right, questions) if not q["phrasing_seen"]),
    }
