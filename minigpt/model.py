"""The decoder-only transformer (P2): token ids in, a logit for every vocabulary entry and position out.

Read it from the top down: GPT, Block, Attention, MLP. The formulas that they compute are in formulas.py.
"""

import torch
from torch import Tensor, nn

from plain_or_fast import has_twin

from . import formulas
from .config import GPTConfig
from .initial import initialise

Cache = dict[str, Tensor]  # a block's "key" and "value" of all tokens so far, (B, K, S, D) each; empty at first
State = list[list[Cache]]  # what decoding keeps: for each prompt, the caches of all blocks


class GPT(nn.Module):
    """A decoder-only transformer; `config` says which one.

    model(ids): (B, T) int64 -> logits (B, T, V); those at position t are for token t + 1 and see nothing after t.
    ValueError when ids are longer than the context. Radford et al. 2019; Touvron et al. 2023, arXiv:2302.13971.

    >>> GPT(GPTConfig.toy())(torch.tensor([[1, 2, 3]])).shape
    torch.Size([1, 3, 1024])
    """

    def __init__(self, config: GPTConfig):
        super().__init__()
        C, V, T = config.d_model, config.vocab_size, config.context_length
        self.config, self.vocab_size, self.context_length = config, V, T
        self.token_embedding = nn.Embedding(V, C)
        self.position_embedding = nn.Embedding(T, C) if config.position == "learned" else None
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.final_norm = Norm(config)
        self.head = nn.Linear(C, V, bias=False)
        if config.tie_embeddings:
            self.head.weight = self.token_embedding.weight
        initialise(self)

    def forward(self, ids: Tensor, caches: list[Cache] | None = None) -> Tensor:
        """ids (B, T) -> logits (B, T, V). caches, one per block: the earlier tokens, which these ids continue."""
        drop = self.config.dropout if self.training and caches is None else 0.0  # generating never drops
        caches = caches or [{} for _ in self.blocks]
        start = caches[0]["key"].size(2) if caches[0] else 0
        positions = torch.arange(start, start + ids.size(1), device=ids.device)  # (T,)
        if not start < start + ids.size(1) <= self.context_length:
            raise ValueError(f"{start + ids.size(1)} tokens do not fit in the context of {self.context_length}")

        # embed: what each token is, and where it stands
        x = self.token_embedding(ids)  # (B, T, C)
        if self.position_embedding is not None:
            x = x + self.position_embedding(positions)
        x = formulas.dropout(x, drop)

        # pass through the blocks, then predict the next token at every position
        for block, cache in zip(self.blocks, caches):
            x = block(x, positions, cache, drop)
        return self.head(self.final_norm(x))  # (B, T, V)

    @has_twin("minigpt.fast.engine")
    def prefill(self, prompts: list[list[int]]) -> tuple[Tensor, State]:
        """Read each prompt: logits (B, V) for the token after it, and the state with which `step` continues."""
        return self._read(prompts, [[{} for _ in self.blocks] for _ in prompts])

    @has_twin("minigpt.fast.engine")
    def step(self, state: State, ids: Tensor) -> tuple[Tensor, State]:
        """Read one more token per row: ids (B,) -> logits (B, V) for the token after it. The caches grow."""
        return self._read(ids[:, None].tolist(), state)

    @has_twin("minigpt.fast.engine")
    def reorder(self, state: State, rows: Tensor) -> State:
        """Row i of the new state continues the old row rows[i]."""
        return [[dict(cache) for cache in state[row]] for row in rows.tolist()]

    @torch.inference_mode()
    def _read(self, texts: list[list[int]], state: State) -> tuple[Tensor, State]:
        """Read each row's next ids, which join its caches in the state: the logits after the last one."""
        device = self.head.weight.device
        logits = [self(torch.tensor([ids], device=device), caches)[0, -1] for ids, caches in zip(texts, state)]
        return torch.stack(logits), state


class Block(nn.Module):
    """Attention, then an MLP: each reads a normalised copy of the stream and adds its result to it."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.attention_norm, self.attention = Norm(config), Attention(config)
        self.mlp_norm, self.mlp = Norm(config), MLP(config)

    def forward(self, x: Tensor, positions: Tensor, cache: Cache, drop: float) -> Tensor:
        x = x + formulas.dropout(self.attention(self.attention_norm(x), positions, cache), drop)
        return x + formulas.dropout(self.mlp(self.mlp_norm(x)), drop)


class Attention(nn.Module):
    """Each token gathers information from itself and from earlier tokens: only here do tokens meet."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        C, D = config.d_model, config.d_head
        self.d_head = D
        self.rope_theta = config.rope_theta if config.position == "rope" else None
        self.query = nn.Linear(C, config.n_heads * D, bias=config.bias)
        self.key = nn.Linear(C, config.n_kv_heads * D, bias=config.bias)
        self.value = nn.Linear(C, config.n_kv_heads * D, bias=config.bias)
        self.output = nn.Linear(C, C, bias=config.bias)

    def forward(self, x: Tensor, positions: Tensor, cache: Cache) -> Tensor:
        # project each token to its queries, keys and values, one per head
        B, T, C = x.shape
        query = self.query(x).view(B, T, -1, self.d_head).transpose(1, 2)  # (B, H, T, D)
        key = self.key(x).view(B, T, -1, self.d_head).transpose(1, 2)  # (B, K, T, D)
        value = self.value(x).view(B, T, -1, self.d_head).transpose(1, 2)  # (B, K, T, D)

        # turn queries and keys by their positions
        if self.rope_theta is not None:
            query = formulas.rotary(query, positions, self.rope_theta)
            key = formulas.rotary(key, positions, self.rope_theta)

        # remember: put the keys and values of earlier tokens, if there are any, in front
        if cache:
            key, value = torch.cat([cache["key"], key], dim=2), torch.cat([cache["value"], value], dim=2)
        cache.update(key=key, value=value)  # (B, K, S, D)

        # attend behind the causal mask, and put the heads side by side again
        mixed = formulas.causal_attention(query, key, value)  # (B, H, T, D)
        return self.output(mixed.transpose(1, 2).reshape(B, T, C))


class MLP(nn.Module):
    """Each token by itself: widen, activate, narrow."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.gate = nn.Linear(config.d_model, config.d_ff, bias=config.bias) if config.mlp == "swiglu" else None
        self.up = nn.Linear(config.d_model, config.d_ff, bias=config.bias)
        self.down = nn.Linear(config.d_ff, config.d_model, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.gate is None:
            return self.down(formulas.gelu(self.up(x)))
        return self.down(formulas.silu(self.gate(x)) * self.up(x))


class Norm(nn.Module):
    """Bring each vector of the stream to one length: RMSNorm or LayerNorm."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.eps, self.is_layernorm = config.norm_eps, config.norm == "layernorm"
        self.weight = nn.Parameter(torch.ones(config.d_model))
        self.bias = nn.Parameter(torch.zeros(config.d_model)) if self.is_layernorm and config.bias else None

    def forward(self, x: Tensor) -> Tensor:
        if self.is_layernorm:
            return formulas.layer_norm(x, self.weight, self.bias, self.eps)
        return formulas.rms_norm(x, self.weight, self.eps)
