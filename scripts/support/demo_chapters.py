"""The demo, chapter by chapter in the lecture's order; each prints what it shows and returns what it measured."""

import copy
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch

from minigpt.corpus import Piece
from minigpt.files.text_files import read_corpus
from scripts import finetune, pretrain, toyworld
from scripts.playground.views import knob_milliseconds
from scripts.support import comparison
from scripts.support.fine_tuning import finetune as fine_tune_and_write
from scripts.support.measuring.answers import (
    as_far_as,
    as_question,
    as_text,
    base_answers,
    cloze,
    continuations,
    decode_greedily,
    read_questions,
    sft_answers,
    share,
)
from scripts.support.measuring.text_loss import told
from scripts.support.pretraining import prepare
from scripts.support.pretraining import pretrain as pretrain_and_write
from scripts.support.report import write_report
from scripts.support.run_directory import read_rows, write_json
from scripts.support.terminal import table, visible
from sft import Message, encode_conversation, encode_examples, read_examples
from sft.finetune import train

SMALLER = {"n_layers": 1, "n_heads": 2, "d_model": 64, "d_ff": 176}  # for P6: the same text, steps and recipe


def tell(out: Path, seed: int, *, quick: bool, quiz: bool, memorised: bool) -> None:
    """Run every chapter; write the models, results.json and report.html into the directory."""
    started = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    print(f"seed {seed}, {torch.get_num_threads()} threads, into {out}")
    watch = Stopwatch()

    # from text to a base model
    documents = write_town(out / "world", watch, seed, quick=quick, quiz=quiz, memorised=memorised)
    tok, pieces = learn_tokens(documents, out / "base", watch)
    base, base_results = learn_to_continue(tok, out / "base", watch, seed, quick=quick)

    # what the base model does
    questions = read_questions(out / "world" / "questions.jsonl")
    ten = [q for q in questions if q["phrasing_seen"]][:10]
    trace = decode(base, tok, ten[0], watch, seed)
    demonstrations = read_rows(out / "world" / "demonstrations.jsonl", "prompt", "response")
    answers, told, asked = ask_base_model(base, tok, questions, ten, demonstrations, watch)

    # fine-tuning, and what it changes
    tuned, sft_results = learn_to_answer(base, tok, out, watch, seed, quick=quick)
    tuned_answers, answered = ask_tuned_model(tuned, tok, questions, ten, watch)
    answers |= tuned_answers
    smaller = compare_with_smaller(tok, out, questions, base_results, answers["base_cloze"], watch, seed)
    show_answers(answers)

    # write
    watch.seconds["total"] = round(time.perf_counter() - started, 2)
    results = {
        "seed": seed,
        "seconds": watch.seconds,
        "base": base_results | {"documents": len(documents), "demonstrations": len(demonstrations)},
        "answers": answers,
        "sft": sft_results,
        "smaller": smaller,
        "tasks": trace["tasks"],
        "decoding": trace["continuations"],
        "playground": {"vocabulary": 49_152, "knob_ms": knob_milliseconds(49_152)},
    }
    story = {
        "quiz": quiz,
        "memorised": memorised,
        "documents": documents[:6],
        "pieces": pieces,
        "shape": asdict(base.config),
        "layout": laid_out(tok, demonstrations[0]),
        "trace": trace,
        "ten": [{**q, "told": t, "base": b, "sft": a} for q, t, b, a in zip(ten, told, asked, answered)],
    }
    write_json(out / "results.json", results)
    write_report(out, results, story)
    print(f"\n{watch.seconds['total']:.0f} s in all. Look at {out}/report.html and {out}/results.json")


class Stopwatch:
    """Seconds spent in each named stage: `with watch.stage("pretrain"): …`; a stage may come more than once."""

    def __init__(self):
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[name] = round(self.seconds.get(name, 0) + time.perf_counter() - started, 2)


def heading(statements: str, text: str) -> None:
    print(f"\n{text}  ({statements})")


def write_town(directory: Path, watch: Stopwatch, seed: int, *, quick: bool, quiz: bool, memorised: bool) -> list[str]:
    """P1: invent a town and write it down; returns the documents that describe it."""
    heading("P1", "A corpus: a small invented town, described in plain text")
    with watch.stage("corpus"):
        size = {"people": 16, "biographies": 20} if quick else {}
        toyworld.write(directory, toyworld.build(seed, quiz=quiz, memorised=memorised, **size))
        documents = [piece.text for piece in read_corpus([str(directory / "documents.txt")])]  # short: one piece each
    for document in documents[:3]:
        print(f"  {document}")
    return documents


def learn_tokens(documents: list[str], directory: Path, watch: Stopwatch) -> tuple:
    """P1: train the tokenizer; returns it, and the pieces into which it cuts a biography."""
    heading("P1", "Text becomes tokens")
    with watch.stage("tokenizer"):
        tok = prepare([*map(Piece, documents)], directory, pretrain.VOCAB_SIZE, pretrain.SHAPE["context_length"])
    biography = next(document for document in documents if "?" not in document)
    pieces = [tok.decode([id]) for id in tok.encode(biography)]
    print(f"  {'|'.join(pieces)[:110]}…")
    return tok, pieces


def learn_to_continue(tok, directory: Path, watch: Stopwatch, seed: int, *, quick: bool) -> tuple:
    """P2, P3: pretrain; returns the base model and its results."""
    heading("P2, P3", "Pretraining: a transformer learns to continue text")
    schedule = pretrain.SCHEDULE | ({"steps": 40} if quick else {})
    with watch.stage("pretrain"):
        base, results = pretrain_and_write(tok, directory, pretrain.SHAPE, schedule, pretrain.BATCH_SIZE, seed)
        base.eval()
    print(f"  loss {told(results['first_loss'])} before, {told(results['val_loss'])} on validation text after ", end="")
    print(f"{results['steps']} steps, {watch.seconds['pretrain']:.0f} s")
    return base, results


def decode(base, tok, question: dict, watch: Stopwatch, seed: int) -> dict:
    """G1 to G9: every algorithm on one prompt; returns what `comparison.trace` does."""
    prompt = question["question"]
    heading("G1 to G9", f"Decoding: “{prompt}” continued by every algorithm, the end token forbidden")
    with watch.stage("decode"):
        trace = comparison.trace(base, tok, prompt, look_at=f"Meet {question['person']}.", seed=seed)
    comparison.show(trace)
    return trace


def ask_base_model(
    base, tok, questions: list[dict], ten: list[dict], demonstrations: list[dict], watch: Stopwatch
) -> tuple[dict, list[str], list[str]]:
    """P5, S1: what the base model knows, and what it does when asked.

    Returns the figures and, for ten questions, what follows the sentence with a gap and what follows the question.
    """
    heading("P5, S1", "The base model knows, but asked a question it continues with more questions")
    with watch.stage("ask"):
        answers = {"n": len(questions), "base_cloze": cloze(base, tok, questions)}
        answers |= base_answers(base, tok, questions, demonstrations)
        told = continuations(base, tok, [as_text(tok, q["cloze"]) for q in ten], 6)
        said = decode_greedily(base, tok, [as_text(tok, q["question"]) for q in ten], 40)
        asked = [as_far_as(tok, one) for one in said]
    for q, text in list(zip(ten, asked))[:3]:
        print(visible(f"  {q['question']} ⟶ {text.strip()}"))
    return answers, told, asked


def learn_to_answer(base, tok, out: Path, watch: Stopwatch, seed: int, *, quick: bool) -> tuple:
    """S3 to S5: fine-tune a copy of the base model; returns it and its results."""
    heading("S3 to S5", "Fine-tuning: the same loop, on prompts and responses about other people")
    schedule = finetune.SCHEDULE | ({"steps": 20} if quick else {})
    with watch.stage("finetune"):
        examples = read_examples(out / "world" / "demonstrations.jsonl")
        tuned = copy.deepcopy(base)
        losses = fine_tune_and_write(
            tuned,
            tok,
            examples,
            out / "sft",
            schedule=schedule,
            batch_size=finetune.BATCH_SIZE,
            seed=seed,
            base=out / "base",
        )
    print(f"  {len(examples):,} demonstrations, {schedule['steps']} steps, {watch.seconds['finetune']:.0f} s")
    print(f"  loss {told(losses['first_loss'])} before, {told(losses['last_loss'])} after")

    rows = encode_examples(tok, examples, base.context_length)
    results = {
        **losses,
        "steps": schedule["steps"],
        "learnt": share(learnt for row in rows.learn for learnt in row),
        "loop": f"{train.__module__}.{train.__name__}",
    }
    return tuned, results


def ask_tuned_model(tuned, tok, questions: list[dict], ten: list[dict], watch: Stopwatch) -> tuple[dict, list[str]]:
    """S6: what the fine-tuned model answers; returns the figures, and its answers to ten questions."""
    heading("S6", "Now it answers, about people it met only in pretraining")
    with watch.stage("ask"):
        answers = sft_answers(tuned, tok, questions)
        answers["sft_cloze"] = cloze(tuned, tok, questions)
        answered = continuations(tuned, tok, [as_question(tok, q["question"]) for q in ten], 40)
    for q, said in list(zip(ten, answered))[:3]:
        right = "" if said == q["answer"] else f"   ({q['answer']})"
        print(visible(f"  {q['question']} ⟶ {said}{right}"))
    return answers, answered


def compare_with_smaller(
    tok, out: Path, questions: list[dict], larger: dict, knows: float, watch: Stopwatch, seed: int
) -> dict:
    """P6: pretrain a smaller model on the same text; returns its results. larger, knows: the base model's."""
    heading("P6", "A smaller base model, on the same text")
    directory = out / "smaller"
    with watch.stage("smaller"):
        directory.mkdir(exist_ok=True)
        for name in ("train.npy", "val.npy"):
            shutil.copy(out / "base" / name, directory)
        shape = pretrain.SHAPE | SMALLER
        schedule = pretrain.SCHEDULE | {"steps": larger["steps"]}
        model, results = pretrain_and_write(tok, directory, shape, schedule, pretrain.BATCH_SIZE, seed)
        results["cloze"] = cloze(model.eval(), tok, questions)
    size = larger["parameters"] / results["parameters"]
    print(f"  loss {told(results['val_loss'])}, and it knows {results['cloze']:.0%} of the facts")
    print(f"  loss {told(larger['val_loss'])}, and it knows {knows:.0%}, with {size:.0f} times the size")
    return results


def laid_out(tok, demonstration: dict) -> list[tuple[str, str]]:
    """S3: a demonstration's tokens, each with its kind: "special", "learnt", both or ""."""
    messages = [Message("user", demonstration["prompt"]), Message("assistant", demonstration["response"])]
    kinds = lambda id, learnt: " ".join(["special"] * (id in tok.special_names) + ["learnt"] * learnt)
    return [(tok.decode([id]), kinds(id, learnt)) for id, learnt in zip(*encode_conversation(tok, messages))]


def show_answers(answers: dict) -> None:
    print()
    table(
        [f"of {answers['n']} questions about people held out of fine-tuning", "right"],
        [
            ["base, “… She lives in ___”: it knows", answers["base_cloze"]],
            ["base, asked in fine-tuning's layout", answers["base_exact"]],
            ["base, asked in plain text", answers["base_exact_raw"]],
            ["base, asked after three answered questions", answers["base_exact_3shot"]],
            ["base, the right word anywhere in 40 tokens", answers["base_mentions"]],
            ["fine-tuned, wordings seen in fine-tuning", answers["sft_exact"]],
            ["fine-tuned, other wordings", answers["sft_exact_unseen_phrasing"]],
        ],
    )
