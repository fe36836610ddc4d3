"""What a model is and how it is trained, as frozen values: all the numbers that a run depends on."""

from dataclasses import dataclass


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a decoder-only transformer; five switches lead from GPT-2 (2019) to Llama 3 (2024).

    vocab_size V, context_length T at most, n_layers, n_heads H, n_kv_heads K (None: as many as n_heads), d_model C,
    d_ff the MLP's inner width (None: 4 C for gelu, 8/3 C rounded up to a multiple of 32 for swiglu).
    ValueError when the numbers do not fit together.

    >>> GPTConfig.toy(vocab_size=300).d_head
    32
    """

    vocab_size: int
    context_length: int
    n_layers: int
    n_heads: int
    d_model: int
    n_kv_heads: int | None = None
    d_ff: int | None = None
    norm: str = "rmsnorm"  # or "layernorm"
    position: str = "rope"  # or "learned"
    mlp: str = "swiglu"  # or "gelu"
    bias: bool = False
    tie_embeddings: bool = True
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.n_kv_heads is None:
            object.__setattr__(self, "n_kv_heads", self.n_heads)
        if self.d_ff is None:
            wide = 4 * self.d_model if self.mlp == "gelu" else -(-8 * self.d_model // 3 // 32) * 32
            object.__setattr__(self, "d_ff", wide)
        for name in ("vocab_size", "context_length", "n_layers", "n_heads", "n_kv_heads", "d_model", "d_ff"):
            _check(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name, choices in _CHOICES.items():
            _check(getattr(self, name) in choices, name, getattr(self, name), " or ".join(choices))
        _check(self.d_model % self.n_heads == 0, "d_model", self.d_model, f"a multiple of n_heads={self.n_heads}")
        _check(self.n_heads % self.n_kv_heads == 0, "n_kv_heads", self.n_kv_heads, f"a divisor of {self.n_heads}")
        _check(self.position != "rope" or self.d_head % 2 == 0, "d_model / n_heads", self.d_head, "even, for rope")
        _check(0 <= self.dropout < 1, "dropout", self.dropout, "in [0, 1)")

    @property
    def d_head(self) -> int:
        return self.d_model // self.n_heads

    @classmethod
    def toy(cls, **changes) -> "GPTConfig":
        """The demo's model: Llama's architecture with 0.9 M parameters."""
        preset = dict(vocab_size=1024, context_length=128, n_layers=4, n_heads=4, d_model=128, d_ff=352)
        return cls(**preset | changes)

    @classmethod
    def gpt2(cls, size: str = "124M", **changes) -> "GPTConfig":
        """GPT-2 with 124M, 355M, 774M or 1558M parameters (Radford et al. 2019, table 2)."""
        shapes = {"124M": (12, 12, 768), "355M": (24, 16, 1024), "774M": (36, 20, 1280), "1558M": (48, 25, 1600)}
        _check(size in shapes, "size", size, " or ".join(shapes))
        n_layers, n_heads, d_model = shapes[size]
        preset = dict(vocab_size=50257, context_length=1024, n_layers=n_layers, n_heads=n_heads, d_model=d_model)
        switches = dict(norm="layernorm", position="learned", mlp="gelu", bias=True)
        return cls(**preset | switches | changes)

    @classmethod
    def llama(cls, size: str = "8B", **changes) -> "GPTConfig":
        """Llama 3 with 8B, 70B or 405B parameters, or SmolLM2 with 135M.

        Grattafiori et al. 2024, arXiv:2407.21783, table 3; Allal et al. 2025, arXiv:2502.02737.
        """
        shapes = {
            "135M": dict(n_layers=30, n_heads=9, n_kv_heads=3, d_model=576, d_ff=1536),
            "8B": dict(n_layers=32, n_heads=32, n_kv_heads=8, d_model=4096, d_ff=14336),
            "70B": dict(n_layers=80, n_heads=64, n_kv_heads=8, d_model=8192, d_ff=28672),
            "405B": dict(n_layers=126, n_heads=128, n_kv_heads=8, d_model=16384, d_ff=53248),
        }
        _check(size in shapes, "size", size, " or ".join(shapes))
        rest = dict(vocab_size=128256, tie_embeddings=False, rope_theta=500_000.0)
        smollm2 = dict(vocab_size=49152, tie_embeddings=True, rope_theta=100_000.0)
        return cls(**shapes[size] | dict(context_length=8192) | (smollm2 if size == "135M" else rest) | changes)


@dataclass(frozen=True)
class TrainConfig:
    """How long, how fast and with which optimizer `train` runs; pretraining and fine-tuning differ in numbers only.

    lr is the peak of AdamW's learning rate: reached after `warmup` steps, then falling in a straight line or along a
    half cosine to final_lr · lr at the last step. ValueError when a number is out of range.

    >>> TrainConfig(steps=100, lr=-1.0)
    Traceback (most recent call last):
    ValueError: lr=-1.0: must be above 0
    """

    steps: int
    lr: float = 1e-3
    warmup: int = 20
    schedule: str = "linear"  # or "cosine"
    final_lr: float = 0.02
    betas: tuple[float, float] = (0.9, 0.95)  # of AdamW's two means; the first is Muon's momentum too
    eps: float = 1e-8
    weight_decay: float = 0.1
    clip: float = 1.0  # the largest norm that a gradient keeps
    optimizer: str = "adamw"  # or "muon": its matrices by muon.py, everything else by AdamW
    muon_lr: float = 0.02
    micro_batches: int = 1  # split each batch into so many pieces and add up their gradients: same step, less memory
    precision: str = "fp32"  # or "bf16": products in bfloat16, weights and sums in fp32; "auto": what is quick here
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "micro_batches"):
            _check(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("lr", "muon_lr", "clip", "eps"):
            _check(getattr(self, name) > 0, name, getattr(self, name), "above 0")
        for name in ("warmup", "final_lr", "weight_decay"):
            _check(getattr(self, name) >= 0, name, getattr(self, name), "at least 0")
        for name, choices in _TRAIN_CHOICES.items():
            _check(getattr(self, name) in choices, name, getattr(self, name), " or ".join(choices))
        _check(all(0 <= beta < 1 for beta in self.betas), "betas", self.betas, "in [0, 1)")


_CHOICES = {
    "norm": ("rmsnorm", "layernorm"),
    "position": ("rope", "learned"),
    "mlp": ("swiglu", "gelu"),
}
_TRAIN_CHOICES = {
    "schedule": ("linear", "cosine"),
    "optimizer": ("adamw", "muon"),
    "precision": ("fp32", "bf16", "auto"),
}


def _check(fits: bool, name: str, value: object, rule: str) -> None:
    if not fits:
        raise ValueError(f"{name}={value!r}: must be {rule}")
