"""Small random `transformers` models to compare with."""

import torch
import transformers

transformers.logging.set_verbosity_error()


def random_llama(V: int = 23, seed: int = 0, scale: float = 0.5) -> transformers.LlamaForCausalLM:
    """A tiny Llama in float64 whose weights are large enough that its predictions differ from text to text."""
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=V, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, initializer_range=scale, attn_implementation="eager",
        bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).double().eval()
