"""Our side of the race: the characters, the recipes, one run. The commands stand in race.py, the other side in peer.py.

The race's model has two norms more than GPT-2 and Llama have; they pay in a short run.
"""

import statistics
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from minigpt import GPT, Batch, GPTConfig, TrainConfig, evaluate, train
from minigpt.data import Batches
from minigpt.files.text_files import read_blocks, read_corpus
from minigpt.model import Norm
from scripts.support.terminal import show_progress

LEAST = 1280  # characters: ten rows of the longest context must fit in the validation text


class Characters(NamedTuple):
    """A text as ids: nine tenths to learn from, one tenth to validate on."""

    training: np.ndarray
    validation: np.ndarray
    vocab_size: int


class Recipe(NamedTuple):
    """One way to train: shape of the model (GPTConfig's words), the batches, and TrainConfig's words."""

    shape: dict
    context: int
    batch_size: int
    training: dict


# LayerNorm, as RMSNorm's kernel is slower. A short run needs a shorter memory of gradients, a longer one more context.
SHAPE = dict(n_layers=4, n_heads=2, d_model=128, d_ff=352, norm="layernorm", tie_embeddings=False)
LARGER = SHAPE | dict(n_heads=4, d_model=256, d_ff=704, dropout=0.2)
SHARED = dict(optimizer="muon", precision="auto", warmup=0, final_lr=0.0, weight_decay=0.0)
SPRINT = Recipe(SHAPE, 64, 16, SHARED | dict(lr=0.015, muon_lr=0.08, betas=(0.85, 0.95), steps=125))  # to the target
LONG = Recipe(SHAPE, 128, 12, SHARED | dict(lr=0.01, muon_lr=0.04))  # for as long as the peer takes
EVENING = Recipe(LARGER, 256, 16, SHARED | dict(lr=0.006, muon_lr=0.025, steps=2000))  # a larger model, 20 minutes


def read_characters(path: Path) -> Characters:
    """ValueError when the text is too short to race on, or no text."""
    [found] = read_corpus([path]).paths
    text = "".join(read_blocks(found))
    if len(text) < LEAST:
        raise ValueError(f"{path}: {len(text)} characters are too few to race on, at least {LEAST} are needed")
    characters, ids = np.unique(np.array(list(text)), return_inverse=True)
    border = len(ids) * 9 // 10
    return Characters(ids[:border], ids[border:], len(characters))


def crops(ids: np.ndarray, batch_size: int, context: int, seed: int) -> Batches:
    """Batches for `train`: at each step, rows that begin anywhere."""

    def batches(step: int) -> Batch:
        starts = np.random.default_rng([seed, step]).integers(len(ids) - context, size=batch_size)
        rows = ids[starts[:, None] + np.arange(context + 1)]  # (B, T + 1)
        return Batch.from_rows(rows[:, :-1], rows[:, 1:])

    return batches


def race(text: Characters, recipe: Recipe, seed: int) -> dict:
    """One run, everything from the weights' first draw to the loss at the end within its seconds.

    Returns {"val": the loss over all validation characters, "seconds", "steps", "pace": the median seconds of a step,
    "parameters"}.
    """
    started = time.perf_counter()

    # the model and its batches
    torch.manual_seed(seed)
    shape = GPTConfig(vocab_size=text.vocab_size, context_length=recipe.context, **recipe.shape)
    model = normalised(GPT(shape))
    batches = crops(text.training, recipe.batch_size, recipe.context, seed)

    # train, then measure
    config = TrainConfig(**recipe.training, seed=seed)
    steps = show_progress(train(model, batches, config), config.steps, f"seed {seed}")
    pace = statistics.median(step.seconds for step in steps)
    return {
        "val": validation_loss(model, text.validation),
        "seconds": time.perf_counter() - started,
        "steps": config.steps,
        "pace": pace,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }


def validation_loss(model: GPT, ids: np.ndarray) -> float:
    """The mean loss over all of the validation characters, read one context at a time."""
    context = model.context_length
    rows = [ids[start : start + context + 1] for start in range(0, len(ids) - 1, context)]
    parts = [rows[i : i + 32] for i in range(0, len(rows), 32)]
    batches = (Batch.from_rows([row[:-1] for row in part], [row[1:] for row in part]) for part in parts)
    return evaluate(model, batches, SHARED["precision"])  # bfloat16 products move this loss by 1e-5


def normalised(model: GPT) -> GPT:
    """Give a fresh model, in place, a norm behind its token embedding and one for each head's queries and keys."""
    model.token_embedding = nn.Sequential(model.token_embedding, Norm(model.config))
    for block in model.blocks:
        norm = HeadNorm(model)
        block.attention.query = nn.Sequential(block.attention.query, norm)
        block.attention.key = nn.Sequential(block.attention.key, norm)
    return model


class HeadNorm(nn.Module):
    """The model's norm for each head's vector by itself, so that queries and keys have one length."""

    def __init__(self, model: GPT):
        super().__init__()
        self.norm = Norm(model.config)
        self.norm.weight = nn.Parameter(torch.ones(model.config.d_head))

    def forward(self, x: Tensor) -> Tensor:
        heads = x.unflatten(-1, (-1, len(self.norm.weight)))  # (B, T, H, D)
        return self.norm(heads).flatten(-2)
