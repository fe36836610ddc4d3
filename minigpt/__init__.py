"""The base model: from text to a model that predicts the next token. Begin with tokenizer.py, corpus.py, data.py."""

from .config import GPTConfig, TrainConfig
from .data import IGNORE, Batch, all_batches, token_batches
from .files.checkpoint import load_checkpoint, save_checkpoint
from .files.directory import load, save
from .files.token_file import read_tokens, write_tokens
from .loop import Step, TrainState, evaluate, train
from .model import GPT
from .tokenizer import Tokenizer

__all__ = [
    "GPT", "IGNORE", "Batch", "GPTConfig", "Step", "Tokenizer", "TrainConfig", "TrainState", "all_batches", "evaluate",
    "load", "load_checkpoint", "read_tokens", "save", "save_checkpoint", "token_batches", "train", "write_tokens",
]  # fmt: skip
