"""One trial of an experiment: the demo's base model, fine-tuned with one setting changed, and then asked."""

from pathlib import Path

import numpy as np

from minigpt import TrainConfig, load, train
from scripts import finetune, pretrain
from scripts.support.fine_tuning import base_text, replay_batches, replayed_rows
from scripts.support.measuring.answers import (
    as_question,
    as_text,
    cloze,
    continuations,
    decode_greedily,
    read_questions,
    share,
    text_of,
)
from scripts.support.measuring.text_loss import text_loss
from scripts.support.models import open_model
from scripts.support.pretraining import pretrain as pretrain_and_write
from sft import encode_examples, example_batches, mix, read_examples


def trial(experiment: str, value, *, base: str, world: Path, directory: Path, seed: int, steps: int) -> dict:
    """Fine-tune the base model with the experiment's setting at this value, and ask it about the held-out half of town.

    Returns the figures by the names that scripts/experiments.py lists.
    """
    model, tok = open_model(base)
    text = base_text(base, tok, [], directory)
    if not text:
        raise FileNotFoundError(f"{base}: train.npy and val.npy are missing; run `make demo` first")
    questions = read_questions(world / "questions.jsonl")

    # before fine-tuning
    if experiment == "size":
        model = sized(value, model, tok, text, directory / value.replace(" ", ""), seed)
    found = {"text_loss_before": text_loss(model, tok, text[1], 64)}
    if experiment == "size":
        [said] = continuations(model, tok, [as_text(tok, questions[0]["cloze"])], 30)
        found["knew"] = cloze(model, tok, questions)
        found["says"] = questions[0]["cloze"] + said

    # fine-tune: the one loop; an experiment changes nothing but its batches
    examples = read_examples(world / "demonstrations.jsonl")
    if experiment == "demonstrations":
        examples = examples[:value]
    rows = encode_examples(tok, examples, model.context_length, value if experiment == "loss" else "response")
    if experiment == "end" and value == "not learnt":
        unlearn(rows, tok.end_id)
    batches = example_batches(rows, finetune.BATCH_SIZE, seed)
    if experiment == "replay" and value > 0:
        replayed = replayed_rows(value, finetune.BATCH_SIZE)
        demonstrations = example_batches(rows, finetune.BATCH_SIZE - replayed, seed)
        batches = mix(demonstrations, replay_batches(model, tok, text[0], replayed, seed))
    for _ in train(model, batches, TrainConfig(**finetune.SCHEDULE | {"steps": steps}, seed=seed)):
        pass
    model.eval()

    # after fine-tuning
    generations = decode_greedily(model, tok, [as_question(tok, q["question"]) for q in questions], 40)
    answers = [text_of(tok, answer).strip() for answer in generations]
    seen_wordings = [(answer, q["answer"]) for answer, q in zip(answers, questions) if q["phrasing_seen"]]
    other_wordings = [(answer, q["answer"]) for answer, q in zip(answers, questions) if not q["phrasing_seen"]]
    return found | {
        "exact": share(answer == right for answer, right in seen_wordings),
        "unseen": share(answer == right for answer, right in other_wordings),
        "starts": share(answer.startswith(right) for answer, right in seen_wordings),
        "stopped": share(generation.stop == "eos" for generation in generations),
        "tokens": sum(len(generation.ids) for generation in generations) / len(generations),
        "cloze": cloze(model, tok, questions),
        "text_loss": text_loss(model, tok, text[1], 64),
    }


def unlearn(rows, id: int) -> None:
    """Take one token out of what is learnt, wherever it stands."""
    for ids, learn in zip(rows.ids, rows.learn):
        learn[:] = [learnt and i != id for i, learnt in zip(ids, learn)]


def sized(value: str, model, tok, text: list, directory: Path, seed: int):
    """A base model of another size, pretrained by the demo's recipe on the demo's text; it is trained once and kept."""
    layers, width = map(int, value.split(" × "))
    if (layers, width) == (model.config.n_layers, model.config.d_model):
        return model
    if not (directory / "config.json").exists():
        directory.mkdir(parents=True, exist_ok=True)
        for part, tokens in zip(("train", "val"), text):
            np.save(directory / f"{part}.npy", tokens)
        shape = pretrain.SHAPE | {"n_layers": layers, "d_model": width, "n_heads": width // 32, "d_ff": 11 * width // 4}
        pretrain_and_write(tok, directory, shape, pretrain.SCHEDULE, pretrain.BATCH_SIZE, seed)
    return load(directory)[0]
