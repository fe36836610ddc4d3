"""The bridge for models that have nothing but `forward`."""

from collections.abc import Callable

import torch
from torch import Tensor

from decoding.protocol import State


class uncached:
    """Any model that maps ids (1, T) to logits (1, T, V), or to an output with `.logits`, as a LanguageModel.

    No cache: each step reads the whole text again, each row alone. Slow, but no position in it can be off. A
    `transformers` model needs no more than this. context_length: the model's own, if not given.

    >>> model = uncached(lambda ids: torch.nn.functional.one_hot((ids + 1) % 5, 5).double())  # counts up to 4
    >>> model.prefill([[0, 1], [3]])[0].argmax(-1)
    tensor([2, 4])
    """

    def __init__(self, model: Callable, context_length: int | None = None):
        config = getattr(model, "config", None)
        window = getattr(model, "context_length", getattr(config, "max_position_embeddings", None))
        self.model = model
        self.context_length = window if context_length is None else context_length
        self.vocab_size = getattr(model, "vocab_size", getattr(config, "vocab_size", None))

    def prefill(self, prompts: list[list[int]]) -> tuple[Tensor, State]:
        texts = [list(prompt) for prompt in prompts]
        return torch.stack([self.next_logits(text) for text in texts]), texts

    def step(self, state: State, ids: Tensor) -> tuple[Tensor, State]:
        return self.prefill([[*text, id] for text, id in zip(state, ids.tolist(), strict=True)])

    def reorder(self, state: State, rows: Tensor) -> State:
        return [state[row] for row in rows.tolist()]

    def next_logits(self, text: list[int]) -> Tensor:
        """Logits (V,) of the token after a text, in evaluation mode: no dropout."""
        is_module = isinstance(self.model, torch.nn.Module)
        device = next((weight.device for weight in self.model.parameters()), None) if is_module else None
        training = [module for module in self.model.modules() if module.training] if is_module else []
        try:
            for module in training:
                module.training = False
            output = self.model(torch.tensor([text], device=device))
        finally:
            for module in training:
                module.training = True
        return getattr(output, "logits", output)[0, -1]
