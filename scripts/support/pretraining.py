"""Pretraining, step by step: prepare the text, build or resume a model, take its steps, report (P1 to P3)."""

import argparse
import math
import os
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import torch

from minigpt import (
    GPT,
    GPTConfig,
    Step,
    Tokenizer,
    TrainConfig,
    TrainState,
    all_batches,
    evaluate,
    load_checkpoint,
    numpy_gpt,
    read_tokens,
    save_checkpoint,
    token_batches,
    train,
)
from minigpt.corpus import Piece, learn_vocabulary, part_of, split
from minigpt.data import Batches
from minigpt.fast import processes
from minigpt.files.text_files import read_corpus
from minigpt.files.tokenizer_json import to_json
from minigpt.files.writing import remove, write_text
from scripts.support.measuring.text_loss import bits_per_byte
from scripts.support.run_directory import refuse_existing, save_anew
from scripts.support.stop_and_resume import LossLog, refuse_saves, stoppable
from scripts.support.terminal import show_progress
from scripts.support.token_files import write_token_files


def check_memory(config: GPTConfig, batch_size: int, shares: int = 1) -> None:
    """ValueError for a model or a batch that is too large for this machine, by the least that it takes.

    shares: how many processes split the model.
    """
    C, KD = config.d_model, config.n_kv_heads * config.d_head
    block = 2 * C * (C + KD) + (3 if config.mlp == "swiglu" else 2) * C * config.d_ff
    shape = f"--n-layers {config.n_layers}, --d-model {C}, --d-ff {config.d_ff}"
    least = {
        shape: 16 * config.n_layers * block // shares,  # fp32: weights, gradients and two moments
        f"--batch-size {batch_size}": 200 * batch_size,  # the lists and the tensors of a row, however short it is
    }
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else math.inf
    for flags, size in least.items():
        if size > memory:
            has = f"this machine has {memory / 1e9:,.1f}"
            raise ValueError(f"{flags}: training takes {size / 1e9:,.1f} GB of memory at least, {has}")


def begin_run(args: argparse.Namespace) -> None:
    """Prepare a new run's directory: tokenizer and token files. ValueError if it holds another run, unless asked."""
    if not (args.out / "config.json").exists():
        refuse_saves(args.out, args.overwrite)
    refuse_existing(args.out, args.overwrite)
    tok = prepare(read_corpus(args.data), args.out, args.vocab_size, args.context_length)

    # until the new model is written, there is none
    remove(args.out / "checkpoints")
    (args.out / "config.json").unlink(missing_ok=True)
    write_text(args.out / "tokenizer.json", to_json(tok))


def prepare(corpus: Iterable[Piece], directory: Path, vocab_size: int, context_length: int) -> Tokenizer:
    """Train a tokenizer on the training text and write train.npy and val.npy; return the tokenizer.

    corpus: gone through several times, so a list or a Corpus. ValueError, before anything is written, when a part of
    the text is shorter than one context.
    """
    # training and validation text
    borders = split(corpus)

    # text -> tokens
    tok, every = learn_vocabulary(corpus, borders, vocab_size)
    if every > 1:
        print(f"  {sum(borders):,} characters to train on; the tokenizer learns from every {every}th piece of them")
    require_length(tok, corpus, borders, context_length)
    write_token_files(directory, tok, corpus, borders)
    print(f"  {len(borders):,} documents, a vocabulary of {tok.vocab_size} tokens")
    return tok


def require_length(tok: Tokenizer, corpus: Iterable[Piece], borders: Sequence[int], context_length: int) -> None:
    """ValueError when the training or the validation text is shorter than one context."""
    for part, name in (("train", "training"), ("val", "validation")):
        found = 0
        for piece in part_of(corpus, borders, part):
            found += len(tok.encode(piece.text))
            if found > context_length:
                break
        else:
            raise ValueError(f"the {name} text has {found} tokens, fewer than one context of {context_length}")


def pretrain(
    tok: Tokenizer,
    directory: Path,
    shape: dict,
    schedule: dict,
    batch_size: int,
    seed: int,
    *,
    backend: str = "torch",
    device: str = "cpu",
    compile: bool = False,
    shard: bool = False,
    recompute: bool = False,
    tensorboard: bool = False,
    settings: dict | None = None,
    save_every: int = 0,
    resume: int | bool = False,
) -> tuple[GPT, dict]:
    """Train a base model on the directory's token files; write model, log.jsonl and loss.png there.

    shape, schedule: arguments of GPTConfig and TrainConfig. backend: "numpy" for the twin without autograd. shard:
    each process holds a share of the model. recompute: activations are computed again instead of kept. settings: of a
    run that can be stopped and resumed; they must be the same then. save_every: steps between saves, 0 for none.
    resume: the step of a save, or True for the newest. Returns the model and its results; of several processes only
    the first writes the log and the model, and the others get no results.
    """
    config = TrainConfig(**schedule, seed=seed)
    training, validation = (read_tokens(directory / f"{name}.npy", tok.vocab_size) for name in ("train", "val"))

    # build a model, or resume a saved one
    torch.manual_seed(seed)
    model = GPT(GPTConfig(vocab_size=tok.vocab_size, **shape))
    if shard or recompute:
        from minigpt.fast import sharded  # here: it loads much of torch.distributed
    if recompute:
        sharded.recompute(model)
    model = sharded.shard(model, device) if shard else model.to(device)
    state = TrainState()
    if resume:
        state = load_checkpoint(directory, model, settings, None if resume is True else resume)
    done = state.step

    # its steps
    batches = token_batches(training, tok.end_id, model.context_length, batch_size, seed)
    if backend == "numpy":
        steps = numpy_steps(model, batches, config)
    else:
        steps = train(model, batches, config, state, torch.compile(model) if compile else None)
    first = processes.rank() == 0
    needed = first or shard  # to measure and to save
    save_step = lambda: save_checkpoint(directory, model, state, settings) if needed else None
    validate = lambda: validation_loss(model, validation, tok, config) if needed else None
    if settings:
        steps = stoppable(steps, directory, save_step, device)

    # take them: the first process shows and logs
    parameters = sum(parameter.numel() for parameter in model.parameters())
    ln_vocab = math.log(tok.vocab_size)
    log = None
    if first:
        start = f"before training, loss is ln V = {ln_vocab:.2f} and perplexity V = {tok.vocab_size:,}"
        print(f"  {parameters:,} parameters, {len(training):,} tokens; {start}")
        log = LossLog(directory, done, tensorboard)
        steps = show_progress(steps, config.steps, "pretrain", done)
    watch(steps, config, log, validate, save_step, save_every)

    # the result
    model = sharded.gather(model) if shard else model
    if not first:
        return model, {}
    save_anew(directory, model, tok)
    figures = summary(log)
    figures["bits_per_byte"] = bits_per_byte(figures["val_loss"], tok, validation)
    log.plot()
    return model, {"ln_vocab": ln_vocab, "vocab_size": tok.vocab_size, "parameters": parameters} | figures


def numpy_steps(model: GPT, batches: Batches, config: TrainConfig) -> Iterator[Step]:
    """Train the NumPy twin of a model; after each step the model has the twin's weights."""
    twin = numpy_gpt.NumpyGPT.from_torch(model)
    for step in numpy_gpt.train(twin, batches, config):
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(torch.from_numpy(twin.parameters[name]))
        yield step


def watch(
    steps: Iterable[Step],
    config: TrainConfig,
    log: LossLog | None,
    validate: Callable[[], float],
    save_step: Callable[[], object],
    save_every: int,
) -> None:
    """Take a run's steps: log each, validate ten times in a run, save every so often and at the end."""
    validate_every = max(1, config.steps // 10)
    for step in steps:
        last = step.step == config.steps
        loss = validate() if last or step.step % validate_every == 0 else None
        if log:
            log.add(step, loss)
        if save_every and (last or step.step % save_every == 0):
            save_step()


def validation_loss(model: GPT, tokens, tok: Tokenizer, config: TrainConfig) -> float:
    return evaluate(model, all_batches(tokens, tok.end_id, model.context_length, 64), config.precision)


def summary(log: LossLog) -> dict:
    """What a whole run's log says. ValueError when it was lost, and no step was left to be logged anew."""
    rows = log.rows()
    if "val_loss" not in rows[-1]:
        raise ValueError(f"{log.path}: the line of the last step is missing or damaged; the model itself is whole")
    speeds = [row["tokens"] / row["seconds"] for row in rows]
    return {
        "first_loss": rows[0]["loss"],
        "val_loss": rows[-1]["val_loss"],
        "steps": rows[-1]["step"],
        "tokens_per_second": round(statistics.median(speeds)),
    }
