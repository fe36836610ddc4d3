"""The race's peer: a model of nanoGPT's shape in plain PyTorch modules, trained by nanoGPT's documented CPU recipe.

Its shape and numbers are those of config/train_shakespeare_char.py and the CPU line of nanoGPT's README: 4 layers,
4 heads, 128 channels, no biases, no dropout, batches of 12 x 64 characters, AdamW with gradient clipping.
"""

import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minigpt.data import Batches

LAYERS, HEADS, CHANNELS, CONTEXT, BATCH = 4, 4, 128, 64, 12


class PeerBlock(nn.Module):
    """PyTorch's own layers, with its fused causal attention."""

    def __init__(self):
        super().__init__()
        self.attention_norm = nn.LayerNorm(CHANNELS, bias=False)
        self.query_key_value = nn.Linear(CHANNELS, 3 * CHANNELS, bias=False)
        self.output = nn.Linear(CHANNELS, CHANNELS, bias=False)
        self.mlp_norm = nn.LayerNorm(CHANNELS, bias=False)
        self.up = nn.Linear(CHANNELS, 4 * CHANNELS, bias=False)
        self.down = nn.Linear(4 * CHANNELS, CHANNELS, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.shape
        heads = self.query_key_value(self.attention_norm(x)).view(B, T, 3, HEADS, C // HEADS)
        query, key, value = heads.permute(2, 0, 3, 1, 4)  # (B, H, T, D) each
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.output(mixed.transpose(1, 2).reshape(B, T, C))
        return x + self.down(F.gelu(self.up(self.mlp_norm(x))))


class PeerModel(nn.Module):
    def __init__(self, vocab_size: int):
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, CHANNELS)
        self.positions = nn.Embedding(CONTEXT, CHANNELS)
        self.blocks = nn.Sequential(*(PeerBlock() for _ in range(LAYERS)))
        self.norm = nn.LayerNorm(CHANNELS, bias=False)
        self.head = nn.Linear(CHANNELS, vocab_size, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                adds_to_the_stream = name.endswith(("output.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 / (2 * LAYERS) ** 0.5 if adds_to_the_stream else 0.02)
        self.head.weight = self.tokens.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.positions.weight[: ids.size(1)]
        return self.head(self.norm(self.blocks(x)))


class Peer:
    """The peer in training; batches: those of the race, of BATCH x CONTEXT characters."""

    def __init__(self, batches: Batches, vocab_size: int):
        torch.manual_seed(0)
        self.model = PeerModel(vocab_size).train()
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1, fused=True
        )
        self.batches = batches
        self.steps = 0

    def step(self) -> float:
        """One step of training; returns its loss."""
        batch = self.batches(self.steps)
        logits = self.model(batch.inputs)
        loss = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten())
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.steps += 1
        return loss.item()

    def seconds(self, count: int) -> list[float]:
        """How long each of `count` steps takes, after a few that are not counted."""
        for _ in range(5):
            self.step()
        found = []
        for _ in range(count):
            started = time.perf_counter()
            self.step()
            found.append(time.perf_counter() - started)
        return found
