"""Fine-tuning on one's own demonstrations, step by step: hold out, look, train, look again (S3 to S6)."""

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from minigpt import TrainConfig, evaluate, read_tokens, token_batches
from minigpt.corpus import split
from minigpt.data import Batches
from minigpt.files.text_files import read_corpus
from minigpt.files.writing import remove
from scripts.support.measuring.answers import decode_greedily, question_and_answer, text_of
from scripts.support.measuring.text_loss import WINDOW, text_loss, told
from scripts.support.models import model_directory
from scripts.support.run_directory import save_anew, write_json
from scripts.support.stop_and_resume import LossLog
from scripts.support.terminal import ENDS_AT_ONCE, show_progress, table, visible
from scripts.support.token_files import write_token_files
from sft import Example, Message, collate, encode_conversation, encode_examples, epoch_picks, fine_tune
from sft.data import Rows


def hold_out(examples: list[Example], seed: int) -> tuple[list[Example], list[Example]]:
    """Shuffle the examples and cut off a tenth: (to learn from, held out). Of a single example nothing is held out."""
    shuffled = list(examples)
    random.Random(seed).shuffle(shuffled)
    count = max(1, len(shuffled) // 10) if len(shuffled) > 1 else 0
    return shuffled[count:], shuffled[:count]


def fitting(tok, examples: list[Example], context_length: int, skipped: list[str] | None) -> list[Example]:
    """The examples that can be learnt from or held out; print which ones don't fit, and what is odd about others."""
    rows = encode_examples(tok, examples, context_length, skipped=skipped)
    here = {*rows.sources}
    refused = {problem.partition(": ")[0] for problem in skipped or []}
    too_long = [example.source for example in examples if example.source not in here | refused]
    if too_long:
        print(f"  {named(too_long)}: no response begins within {context_length} tokens; left out")
    empty = [example.source for example in examples if example.source in here and says_nothing(example)]
    if empty:
        print(f"  {named(empty)}: an empty response, which teaches to say nothing")
    columns = Counter(column for example in examples for column in example.left_out)
    if columns:
        named_columns = ", ".join(f"{column} (in {count:,} rows)" for column, count in columns.most_common(9))
        print(visible(f"  not read: {named_columns}"))
    return [example for example in examples if example.source in here]


def says_nothing(example: Example) -> bool:
    return any(message.role == "assistant" and not message.content.strip() for message in example.messages)


def named(sources: Sequence[str], most: int = 5) -> str:
    """Count sources, and name the first ones.

    >>> named(["a.jsonl:1", "a.jsonl:7", "a.jsonl:9"], most=2)
    '3 rows (a.jsonl:1, a.jsonl:7, …)'
    """
    more = ", …" if len(sources) > most else ""
    return visible(f"{len(sources):,} row{'s' if len(sources) > 1 else ''} ({', '.join(sources[:most])}{more})")


def base_text(base: str, tok, patterns: list[str], directory: Path) -> list:
    """The base model's text as [training tokens, validation tokens], or [] where there is none.

    patterns: text files, whose tokens are written into the directory; without them, the token files that pretraining
    left beside the base model.
    """
    source = directory if patterns else model_directory(base)
    files = [source / "train.npy", source / "val.npy"]
    if patterns:
        corpus = read_corpus(patterns)
        write_token_files(directory, tok, corpus, split(corpus))
    return [read_tokens(file, tok.vocab_size) for file in files] if all(file.exists() for file in files) else []


def replayed_rows(share: float, batch_size: int) -> int:
    """The number of rows that base documents fill in each batch, at least one. ValueError if the share is impossible.

    >>> replayed_rows(.05, 32)
    2
    """
    if not 0 < share < 1:
        raise ValueError(f"--replay {share}: must be between 0 and 1, the share of base documents in a batch")
    rows = max(1, round(share * batch_size))
    if rows >= batch_size:
        raise ValueError(f"--batch-size {batch_size}: leaves no row for demonstrations beside {rows} of base documents")
    return rows


def replay_batches(model, tok, tokens, rows: int, seed: int) -> Batches:
    """Batches of base documents, to be mixed with demonstrations."""
    return token_batches(tokens, tok.end_id, min(model.context_length, WINDOW), rows, seed)


def finetune(
    model,
    tok,
    examples: list[Example],
    directory: Path,
    *,
    schedule: dict,
    batch_size: int,
    seed: int,
    base: str | Path = "base",
    loss_on: str = "response",
    replay: Batches | None = None,
    tensorboard: bool = False,
) -> dict:
    """Fine-tune the model in place, write it and its log into the directory; return its first and last loss.

    schedule: arguments of TrainConfig. batch_size: demonstrations per step. base: where the model came from, which is
    noted in made_from.json, with the turns of the longest demonstration. replay: base documents for each step.
    """
    directory.mkdir(parents=True, exist_ok=True)
    config = TrainConfig(**schedule, seed=seed)

    # train
    log = LossLog(directory, tensorboard=tensorboard)
    losses = []
    steps = fine_tune(model, tok, examples, config, batch_size=batch_size, loss_on=loss_on, replay=replay)
    for step in show_progress(steps, config.steps, "fine-tune"):
        log.add(step)
        losses.append(step.loss)

    # write; saves of a pretraining run that was here have nothing to do with this model
    remove(directory / "checkpoints")
    save_anew(directory, model.eval(), tok)
    turns = max(sum(message.role == "user" for message in example.messages) for example in examples)
    write_json(directory / "made_from.json", {"base": str(base), "turns": turns})
    log.plot()
    return {"first_loss": losses[0], "last_loss": losses[-1]}


Question = tuple[list[Message], str]  # the messages up to the last response, and that response


def questions_of(tok, examples: list[Example], context_length: int, most: int) -> list[Question]:
    """What can be asked of held-out demonstrations: those questions that leave room for an answer, `most` at most."""
    asked = [question_and_answer(example) for example in examples]
    return [pair for pair in asked if len(encode_conversation(tok, pair[0])[0]) < context_length][:most]


class Look(NamedTuple):
    """How a model does on what was held out."""

    figures: dict[str, float]
    texts: list[str]  # its answers


def look(
    model,
    tok,
    rows: Rows | None,
    asked: list[Question],
    text: list,
    *,
    batch_size: int,
    max_new_tokens: int,
    precision: str,
) -> Look:
    """Measure a model on held-out rows, on questions, and on the base model's text, where there are any."""
    # the loss on held-out responses
    figures = {}
    if rows:
        validation = (collate(rows, pick) for pick in epoch_picks(rows, batch_size, seed=0, epoch=0))
        figures["val_loss"] = evaluate(model, validation, precision)

    # its answers
    prompts = [encode_conversation(tok, messages)[0] for messages, _ in asked]
    said = decode_greedily(model, tok, prompts, max_new_tokens)
    texts = [text_of(tok, answer).strip() for answer in said]
    if asked:
        figures["exact"] = sum(text == meant.strip() for text, (_, meant) in zip(texts, asked))
        figures["stopped"] = sum(answer.stop == "eos" for answer in said)
        figures["tokens"] = sum(len(answer.ids) for answer in said) / len(said)

    # what it forgets
    if text:
        figures["text_loss"] = text_loss(model, tok, text[1], batch_size, precision)
    return Look(figures, texts)


def show_data(training: Rows, picks: list[list[int]], context_length: int) -> None:
    """Print what is cut off of the demonstrations, and how they fill batches."""
    if training.truncated:
        print(f"  {training.truncated:,} are longer than the context of {context_length} and lose their end; ", end="")
        print(f"{training.dropped:,} of them lose the whole response and are left out")
    print(f"  {len(picks):,} batches per epoch, {padding(training, picks):.1%} of them padding")


def padding(rows: Rows, picks: list[list[int]]) -> float:
    """The share of padding in batches of these rows.

    >>> padding(Rows([[1, 2, 3], [4, 5]], [], 0, 0), [[0, 1]])  # one of four inputs
    0.25
    """
    lengths = [[len(rows.ids[i]) - 1 for i in batch] for batch in picks]
    padded = sum(max(batch) * len(batch) for batch in lengths)
    return 1 - sum(map(sum, lengths)) / padded


def show_before_and_after(asked: list[Question], before: Look, after: Look) -> None:
    """Print what fine-tuning changed: a table of figures, and three answers in full."""
    names = {
        "val_loss": "loss on held-out responses",
        "exact": f"of {len(asked)} held-out questions, answered word for word",
        "stopped": "answers that end by themselves",
        "tokens": "tokens per answer",
        "text_loss": "loss on the base model's text",
    }
    if before.figures:
        shown = lambda key, figure: told(figure) if key.endswith("loss") else figure
        rows = [[names[key], *(shown(key, look.figures[key]) for look in (before, after))] for key in before.figures]
        table(["", "before", "after"], rows)
    for (messages, meant), old, new in list(zip(asked, before.texts, after.texts))[:3]:
        print()
        for label, line in [("", messages[-1].content), ("before: ", old), ("after:  ", new), ("meant:  ", meant)]:
            shown = " ".join(line.split()) or ENDS_AT_ONCE
            print(visible(f"  {'  ' if label else ''}{label}{shown}"))
