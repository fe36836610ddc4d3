"""The decoder-only transformer (P2): token ids in, a logit for every vocabulary entry and position out.

Read it from the bottom up: GPT is a stack of Blocks; a Block is Attention and an MLP, each behind a norm and added to
the stream; the formulas are in functional.py. The key/value cache makes generation cheap and changes no logit.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from . import formulas as F
from .config import GPTConfig


class Cache:
    """The keys and values of all tokens so far, so that each new token costs one token's work.

    One row a prompt. Rows share slots: the shorter prompts of a batch leave a hole after them, which `filled` marks
    and attention skips; `lengths` holds how many tokens each row really has, which is its next position.
    """

    def __init__(self, config: GPTConfig, lengths: Tensor, dtype: torch.dtype):
        self.lengths, self.longest, self.used = lengths, int(lengths.max()), 0
        self.rope_theta = config.rope_theta if config.position == "rope" else None
        self.uniform = bool((lengths == self.longest).all())  # no holes: nothing to mask
        shape = (config.n_layers, 2, len(lengths), config.n_kv_heads, 0, config.d_head)
        self.slots = torch.empty(shape, dtype=dtype, device=lengths.device)  # (layers, 2, B, K, S, D)
        self.filled = torch.empty(len(lengths), 0, dtype=torch.bool, device=lengths.device)  # (B, S)

    def make_room(self, count: int) -> None:
        """Have `count` free slots after the used ones; capacity doubles, so a long text is copied a few times only."""
        needed = self.used + count
        if needed > self.slots.size(-2):
            grown = list(self.slots.shape)
            grown[-2] = max(needed, 2 * self.slots.size(-2), 64)
            slots, self.slots = self.slots, self.slots.new_empty(grown)
            self.slots[..., : self.used, :] = slots[..., : self.used, :]
            filled, self.filled = self.filled, self.filled.new_zeros(len(self.lengths), grown[-2])
            self.filled[:, : self.used] = filled[:, : self.used]
            if self.rope_theta is not None:
                positions = torch.arange(grown[-2], device=slots.device)
                self.turns = torch.stack(F.rotary(positions, grown[-1], self.rope_theta, slots.dtype))  # (2, S, D)
            self.layers = [layer.unbind() for layer in self.slots]

    def store(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Write a layer's new keys and values, (B, K, T, D) each; return all of that layer's, (B, K, S, D) each."""
        T, (keys, values) = key.size(-2), self.layers[layer]
        keys.narrow(-2, self.used, T).copy_(key)
        values.narrow(-2, self.used, T).copy_(value)
        return keys.narrow(-2, 0, self.used + T), values.narrow(-2, 0, self.used + T)

    def reorder(self, rows: Tensor) -> "Cache":
        """Row i becomes a copy of the old row rows[i]: to drop finished rows, or to follow beam search's best paths."""
        self.slots = self.slots.index_select(2, rows)
        self.layers = [layer.unbind() for layer in self.slots]
        self.filled, self.lengths = self.filled[rows], self.lengths[rows]
        self.longest = int(self.lengths.max())
        return self


class Shared(NamedTuple):
    """What all blocks of one forward pass share."""

    turn: tuple[Tensor, Tensor] | None  # cosines and sines of the positions, for rotary models
    mask: Tensor | None  # which stored tokens each token may look at; None: all
    cache: Cache | None  # where generation keeps keys and values
    dropout: float  # share of activations to drop: 0 unless training


class Norm(nn.Module):
    def __init__(self, config: GPTConfig, size: int):
        super().__init__()
        self.eps, self.fused = config.norm_eps, config.kernels == "fused"
        self.weight = nn.Parameter(torch.ones(size))
        self.centre = config.norm == "layernorm"
        self.bias = nn.Parameter(torch.zeros(size)) if self.centre and config.bias else None

    def forward(self, x: Tensor) -> Tensor:
        if self.centre:
            return F.layer_norm(x, self.weight, self.bias, self.eps, self.fused)
        return F.rms_norm(x, self.weight, self.eps, self.fused)


class Attention(nn.Module):
    """Tokens look back at earlier tokens: the only place where positions exchange information."""

    def __init__(self, config: GPTConfig, layer: int):
        super().__init__()
        self.layer, self.fused = layer, config.kernels == "fused"
        self.n_heads, self.n_kv_heads, self.d_head = config.n_heads, config.n_kv_heads, config.d_head
        rows = (self.n_heads + 2 * self.n_kv_heads) * self.d_head  # one product is quicker than three smaller ones
        self.query_key_value = nn.Linear(config.d_model, rows, bias=config.bias)
        self.query_key_norm = Norm(config, self.d_head) if config.qk_norm else None
        self.output = nn.Linear(config.d_model, config.d_model, bias=config.bias)

    def forward(self, x: Tensor, shared: Shared) -> Tensor:
        B, T, C = x.shape
        H, K = self.n_heads, self.n_kv_heads
        heads = self.query_key_value(x).view(B, T, H + 2 * K, self.d_head).transpose(1, 2)  # (B, H + 2K, T, D)
        query_key, value = heads.split((H + K, K), 1)
        if self.query_key_norm is not None:
            query_key = self.query_key_norm(query_key)
        if shared.turn is not None:
            query_key = F.rotate(query_key, *shared.turn)
        query, key = query_key.split((H, K), 1)  # (B, H, T, D) and (B, K, T, D), as is value
        if shared.cache is not None:
            key, value = shared.cache.store(self.layer, key, value)  # (B, K, S, D)
        mixed = F.causal_attention(query, key, value, shared.mask, self.fused)  # (B, H, T, D)
        return self.output(mixed.transpose(1, 2).reshape(B, T, C))


class MLP(nn.Module):
    """Each token by itself: widen, gate, narrow."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.fused, self.gated = config.kernels == "fused", config.mlp == "swiglu"
        wide = config.d_ff * (2 if self.gated else 1)  # with a gate: its rows, then those of what it gates
        self.up = nn.Linear(config.d_model, wide, bias=config.bias)
        self.down = nn.Linear(config.d_ff, config.d_model, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(x)
        if not self.gated:
            return self.down(F.gelu(x, self.fused))
        gate, x = x.chunk(2, -1)
        return self.down(F.silu(gate, self.fused) * x)


class Block(nn.Module):
    def __init__(self, config: GPTConfig, layer: int):
        super().__init__()
        self.attention_norm, self.attention = Norm(config, config.d_model), Attention(config, layer)
        self.mlp_norm, self.mlp = Norm(config, config.d_model), MLP(config)

    def forward(self, x: Tensor, shared: Shared) -> Tensor:
        x = x + F.dropout(self.attention(self.attention_norm(x), shared), shared.dropout)
        return x + F.dropout(self.mlp(self.mlp_norm(x)), shared.dropout)


class GPT(nn.Module):
    """A decoder-only transformer; `config` says which one.

    model(ids) maps (B, T) int64 to logits (B, T, V); position t's logits are for token t + 1 and see nothing after t.
    `prefill`, `step` and `reorder` are what the decoding package needs of a model.
    ValueError when ids are longer than the context. Radford et al. 2019; Touvron et al. 2023, arXiv:2302.13971.

    >>> GPT(GPTConfig.toy())(torch.tensor([[1, 2, 3]])).shape
    torch.Size([1, 3, 1024])
    """

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.config = config
        self.context_length, self.vocab_size = config.context_length, config.vocab_size
        C, V = config.d_model, config.vocab_size
        self.token_embedding = nn.Embedding(V, C)
        self.position_embedding = nn.Embedding(config.context_length, C) if config.position == "learned" else None
        self.embedding_norm = Norm(config, C) if config.embedding_norm else None
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layers))
        self.final_norm = Norm(config, C)
        self.head = nn.Linear(C, V, bias=False)
        if config.tie_embeddings:
            self.head.weight = self.token_embedding.weight
        self.initialise()

    def initialise(self) -> None:
        """Draw the weights so that the first predictions are near uniform: a first loss of about ln V.

        std .02, as GPT-2; smaller for what writes into the stream, which 2 · n_layers of them share, and smaller for a
        wide embedding: a tied head would otherwise bet on repeating the token it has just read.
        """
        for name, parameter in self.named_parameters():
            if parameter.ndim < 2:
                continue
            std = 0.02
            if name.endswith(("output.weight", "down.weight")):
                std /= (2 * self.config.n_layers) ** 0.5
            if "embedding" in name or name == "head.weight":
                std = min(std, 4 / self.config.d_model)
            nn.init.normal_(parameter, std=std)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, ids: Tensor) -> Tensor:
        positions = torch.arange(ids.size(1), device=ids.device)
        return self.head(self.hidden(ids, positions, F.causal_mask(positions, ids.size(1))))

    def hidden(self, ids: Tensor, positions: Tensor, mask: Tensor | None, cache: Cache | None = None) -> Tensor:
        """The stream after all blocks and the final norm: ids (B, T), positions (T,) or (B, T) -> (B, T, C)."""
        stored = ids.size(1) if cache is None else cache.longest
        if stored > self.context_length:
            raise ValueError(f"{stored} tokens do not fit in the context of {self.context_length}")
        x, turn = self.token_embedding(ids), None  # (B, T, C)
        if self.position_embedding is not None:
            x = x + self.position_embedding(positions)
        elif cache is None:
            turn = F.rotary(positions, self.config.d_head, self.config.rope_theta, x.dtype)
        else:
            turn = cache.turns[:, positions.unsqueeze(-2)].unbind()  # (T, D) or (B, 1, 1, D) each
        if self.embedding_norm is not None:
            x = self.embedding_norm(x)
        rate = self.config.dropout if self.training and cache is None else 0.0  # a cache means that we generate
        x = F.dropout(x, rate)
        shared = Shared(turn, mask, cache, rate)
        for block in self.blocks:
            x = block(x, shared)
        return self.final_norm(x)

    @torch.inference_mode()
    def prefill(self, prompts: list[list[int]]) -> tuple[Tensor, Cache]:
        """Read the prompts: logits (B, V) after each one's last token, and the cache from which `step` goes on."""
        device = self.head.weight.device
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
        # Padding goes to the right, where the causal mask hides it: a prompt's positions are those it has alone.
        ids = nn.utils.rnn.pad_sequence([torch.tensor(prompt, device=device) for prompt in prompts], batch_first=True)
        positions = torch.arange(ids.size(1), device=device)
        cache = Cache(self.config, lengths, self.head.weight.dtype)
        cache.make_room(len(positions))
        cache.filled[:, : len(positions)] = positions < lengths[:, None]
        x = self.hidden(ids, positions, F.causal_mask(positions, len(positions)), cache)
        cache.used = len(positions)
        return self.head(x[torch.arange(len(prompts)), lengths - 1]), cache

    @torch.inference_mode()
    def step(self, cache: Cache, ids: Tensor) -> tuple[Tensor, Cache]:
        """Read one more token a row: ids (B,) -> logits (B, V) for the next one. The cache is changed in place."""
        cache.make_room(1)
        mask = None
        if not cache.uniform:
            cache.filled[:, cache.used] = True
            mask = cache.filled[:, None, None, : cache.used + 1]  # (B, 1, 1, S)
        positions = cache.lengths[:, None]
        cache.lengths, cache.longest = cache.lengths + 1, cache.longest + 1
        x = self.hidden(ids[:, None], positions, mask, cache)
        cache.used += 1
        return self.head(x[:, 0]), cache

    def reorder(self, cache: Cache, rows: Tensor) -> Cache:
        """Row i of the cache becomes a copy of the old row rows[i]."""
        return cache.reorder(rows)
