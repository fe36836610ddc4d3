"""What a decoder needs of a model, and what the loops give back."""

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

State = Any  # what a model remembers of the tokens it has read: a key/value cache, or just the tokens


class LanguageModel(Protocol):
    """What a decoder needs of a model. `step` and `reorder` may write into the state they are given: it is used once.

    If the model also has the attribute `vocab_size`, prompts are checked against it.
    """

    context_length: int | None  # how many tokens fit into the window; None: any number

    def prefill(self, prompts: list[list[int]]) -> tuple[Tensor, State]:
        """Read prompts of unequal length; the logits (B, V) of the token after each."""

    def step(self, state: State, ids: Tensor) -> tuple[Tensor, State]:
        """Read one more token per row, ids (B,); the logits (B, V) of the token after it."""

    def reorder(self, state: State, rows: Tensor) -> State:
        """Keep, drop or repeat rows: row i of the new state is row rows[i] of the old one."""


@dataclass(frozen=True)
class Step:
    """One turn of the loop as data."""

    logits: Tensor  # (V,) as the model gave them
    filtered: Tensor  # (V,) as the filters left them
    id: int | None  # the choice; None: no token was left to choose
    logprob: float  # of the choice, before any filter
    stop: str | None  # why the loop ends here; None: it continues


@dataclass(frozen=True)
class Generation:
    """What was generated from one prompt, and why it ended."""

    ids: list[int]  # the new tokens, the end token included
    logprob: float  # their log-probability given the prompt, before any filter
    score: float  # what beam search ranks by, logprob / len(ids) ** length_penalty; elsewhere the logprob
    stop: str  # "eos", "length", "context" (the window is full) or "blocked" (no token was left to choose)


@dataclass(frozen=True)
class Path:
    """A partial sequence: the new tokens so far, and the sum of their log-probabilities."""

    ids: tuple[int, ...]
    logprob: float


@dataclass(frozen=True)
class BeamStep:
    """One turn of beam search as data. The parent of a path has the ids path.ids[:-1]."""

    kept: list[Path]  # the live paths, best first, at most `width`
    pruned: list[Path]  # the candidates ranked next, best first: the nearest to have been kept
    finished: list[Generation]  # the paths that ended in this turn
