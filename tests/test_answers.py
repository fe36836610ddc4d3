"""How answers are counted: what is fair to a base model, and what a fine-tuned one must do."""

import pytest

from scripts.support.exercises.reciter import reciter
from scripts.support.measuring.answers import as_question, as_text, base_answers, cloze, sft_answers


@pytest.mark.claim("P5")
@pytest.mark.parametrize(
    ("said", "right"), [(" Oslo", 1), (" Oslo!", 1), (" Ada", 0), ("! Oslo", 0), ("Oslo", 0), ("", 0)]
)
def test_a_gap_is_filled_by_what_comes_first(tok, said, right):
    questions = [{"cloze": f"{name} lives in", "cloze_answer": " Oslo"} for name in ("Ada", "They")]
    model = reciter(tok, (as_text(tok, "Ada lives in"), said))
    assert cloze(model, tok, questions) == right / 2


def test_a_gap_is_asked_for_in_plain_text(tok):
    model = reciter(tok, (as_question(tok, "Ada lives in"), " Oslo"))
    assert cloze(model, tok, [{"cloze": "Ada lives in", "cloze_answer": " Oslo"}]) == 0


@pytest.mark.claim("S1")
@pytest.mark.parametrize(
    ("said", "right"), [("In Oslo.", 1), (" In Oslo. Where?", 1), (" Where? In Oslo.", 0), ("In", 0)]
)
@pytest.mark.parametrize(
    ("form", "prompt"),
    [
        ("base_exact_raw", as_text),
        ("base_exact", as_question),
        ("base_exact_3shot", lambda tok, text: as_text(tok, "Q? A. " + text)),
    ],
)
def test_a_base_model_answers_if_the_answer_comes_first(tok, said, right, form, prompt):
    questions = [{"question": f"{name}?", "answer": "In Oslo.", "value": "Oslo"} for name in ("Ada", "They")]
    model = reciter(tok, (prompt(tok, "Ada?"), said))
    found = base_answers(model, tok, questions, [{"prompt": "Q?", "response": "A."}])
    assert found.pop(form) == right / 2
    assert found.pop("base_mentions") == ("Oslo" in said) / 2 * (form == "base_exact_raw")
    assert set(found.values()) == {0}


@pytest.mark.claim("S6")
def test_a_fine_tuned_model_has_to_answer_exactly_and_stop(tok):
    rows = [("Oslo.", True), ("Oslo. " * 9, True), ("Ada.", True), (" Oslo.", True), ("Oslo.", False), ("", False)]
    questions = [{"question": f"{i}?", "answer": "Oslo.", "phrasing_seen": seen} for i, (_, seen) in enumerate(rows)]
    model = reciter(tok, *((as_question(tok, q["question"]), said) for q, (said, _) in zip(questions, rows)))
    found = sft_answers(model, tok, questions)
    assert found == {"sft_ended": 5 / 6, "sft_exact": 1 / 4, "sft_exact_unseen_phrasing": 1 / 2}
