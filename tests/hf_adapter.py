"""Any `transformers` causal model as a model for the decoders, and small random ones to compare with."""

import torch
import transformers
from torch import Tensor

transformers.logging.set_verbosity_error()


class HuggingFace:
    """No cache: each step reads the whole text again, each row alone. Slow, but no position in it can be off."""

    def __init__(self, model: transformers.PreTrainedModel):
        self.model = model.eval()
        self.vocab_size = model.config.vocab_size
        self.context_length = model.config.max_position_embeddings

    def _read(self, texts: list[list[int]]) -> tuple[Tensor, list[list[int]]]:
        device = self.model.device
        return torch.cat([self.model(torch.tensor([ids], device=device)).logits[:, -1] for ids in texts]), texts

    def prefill(self, prompts: list[list[int]]) -> tuple[Tensor, list[list[int]]]:
        return self._read([list(prompt) for prompt in prompts])

    def step(self, state: list[list[int]], ids: Tensor) -> tuple[Tensor, list[list[int]]]:
        return self._read([[*text, id] for text, id in zip(state, ids.tolist(), strict=True)])

    def reorder(self, state: list[list[int]], rows: Tensor) -> list[list[int]]:
        return [state[row] for row in rows.tolist()]


def random_llama(V: int = 23, seed: int = 0, scale: float = 0.5) -> transformers.LlamaForCausalLM:
    """A tiny Llama in float64 whose weights are large enough that its predictions differ from text to text."""
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=V, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, initializer_range=scale, attn_implementation="eager",
        bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).double().eval()
