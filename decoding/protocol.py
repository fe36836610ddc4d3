"""What a decoder needs of a model, and the bridge for a model that has nothing but `forward`."""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

State = Any  # what a model remembers of the tokens it has read: a key/value cache, or just the tokens


class LanguageModel(Protocol):
    """`step` and `reorder` may write into the state they are given: it is used once."""

    context_length: int | None  # how many tokens fit into the window; None: any number
    # vocab_size: int           if the model has it, prompts are checked against it

    def prefill(self, prompts: list[list[int]]) -> tuple[Tensor, State]: ...  # logits (B, V) after each prompt
    def step(self, state: State, ids: Tensor) -> tuple[Tensor, State]: ...  # one more token per row: (B,) -> (B, V)
    def reorder(self, state: State, rows: Tensor) -> State: ...  # row i of the new state is row rows[i] of the old one


class uncached:
    """Any model that maps ids (1, T) to logits (1, T, V), or to an output with `.logits`, as a LanguageModel.

    No cache: each step reads the whole text again, each row alone. A `transformers` model needs no more than this.
    """

    def __init__(self, model: Callable, context_length: int | None = None):
        config = getattr(model, "config", None)
        window = getattr(model, "context_length", getattr(config, "max_position_embeddings", None))
        self.model = model
        self.context_length = context_length or window
        self.vocab_size = getattr(model, "vocab_size", getattr(config, "vocab_size", None))

    def prefill(self, prompts: list[list[int]]) -> tuple[Tensor, State]:
        return torch.stack([self.next_logits(ids) for ids in prompts]), prompts

    def step(self, state: State, ids: Tensor) -> tuple[Tensor, State]:
        return self.prefill([[*text, id] for text, id in zip(state, ids.tolist(), strict=True)])

    def reorder(self, state: State, rows: Tensor) -> State:
        return [state[row] for row in rows.tolist()]

    def next_logits(self, text: list[int]) -> Tensor:
        device, training = None, []
        if isinstance(self.model, torch.nn.Module):
            device = next((weight.device for weight in self.model.parameters()), None)
            training = [module for module in self.model.modules() if module.training]
        try:
            for module in training:  # no dropout
                module.training = False
            output = self.model(torch.tensor([text], device=device))
        finally:
            for module in training:
                module.training = True
        return getattr(output, "logits", output)[0, -1]
