"""What a model is and how it is trained, as frozen values: all the numbers that a run depends on."""

from collections.abc import Callable, Sequence
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
            width = 4 * self.d_model if self.mlp == "gelu" else -(-8 * self.d_model // 3 // 32) * 32
            object.__setattr__(self, "d_ff", width)
        sizes = ("vocab_size", "context_length", "n_layers", "n_heads", "n_kv_heads", "d_model", "d_ff")
        _check(self, sizes, lambda size: size >= 1, "at least 1")
        _check_choices(self, norm=("rmsnorm", "layernorm"), position=("rope", "learned"), mlp=("swiglu", "gelu"))
        _check(self, ["d_model"], lambda C: C % self.n_heads == 0, f"a multiple of n_heads={self.n_heads}")
        _check(self, ["n_kv_heads"], lambda K: self.n_heads % K == 0, f"a divisor of {self.n_heads}")
        _check(self, ["d_head"], lambda D: self.position != "rope" or D % 2 == 0, "even, for rope")
        _check(self, ["dropout"], lambda rate: 0 <= rate < 1, "in [0, 1)")

    @property
    def d_head(self) -> int:
        return self.d_model // self.n_heads

    @classmethod
    def toy(cls, **changes) -> "GPTConfig":
        """The demo's model: Llama's architecture with 0.9 M parameters."""
        return cls(**TOY | changes)

    @classmethod
    def gpt2(cls, size: str = "124M", **changes) -> "GPTConfig":
        """GPT-2 with 124M, 355M, 774M or 1558M parameters (Radford et al. 2019, table 2)."""
        _check_size(size, GPT2_SIZES)
        return cls(**GPT2 | GPT2_SIZES[size] | changes)

    @classmethod
    def llama(cls, size: str = "8B", **changes) -> "GPTConfig":
        """Llama 3 with 8B, 70B or 405B parameters, or SmolLM2 with 135M.

        Grattafiori et al. 2024, arXiv:2407.21783, table 3; Allal et al. 2025, arXiv:2502.02737.
        """
        _check_size(size, LLAMA_SIZES)
        return cls(**LLAMA | LLAMA_SIZES[size] | changes)


TOY = dict(vocab_size=1024, context_length=128, n_layers=4, n_heads=4, d_model=128, d_ff=352)
GPT2 = dict(vocab_size=50257, context_length=1024, norm="layernorm", position="learned", mlp="gelu", bias=True)
GPT2_SIZES = {
    "124M": dict(n_layers=12, n_heads=12, d_model=768),
    "355M": dict(n_layers=24, n_heads=16, d_model=1024),
    "774M": dict(n_layers=36, n_heads=20, d_model=1280),
    "1558M": dict(n_layers=48, n_heads=25, d_model=1600),
}
LLAMA = dict(vocab_size=128256, context_length=8192, n_kv_heads=8, tie_embeddings=False, rope_theta=500_000.0)
SMOLLM2 = dict(vocab_size=49152, n_kv_heads=3, tie_embeddings=True, rope_theta=100_000.0)
LLAMA_SIZES = {
    "135M": dict(n_layers=30, n_heads=9, d_model=576, d_ff=1536, **SMOLLM2),
    "8B": dict(n_layers=32, n_heads=32, d_model=4096, d_ff=14336),
    "70B": dict(n_layers=80, n_heads=64, d_model=8192, d_ff=28672),
    "405B": dict(n_layers=126, n_heads=128, d_model=16384, d_ff=53248),
}


@dataclass(frozen=True)
class TrainConfig:
    """How long, how fast and with which optimizer `train` runs; pretraining and fine-tuning differ in numbers only.

    lr is the peak of AdamW's learning rate: reached after `warmup` steps, then falling in a straight line or along a
    half cosine to final_lr · lr at the last step. ValueError when a number is out of range.
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
    optimizer: str = "adamw"  # or "muon": matrices by fast/muon.py, everything else by AdamW
    muon_lr: float = 0.02
    micro_batches: int = 1  # split each batch into this many pieces and add up their gradients: same step, less memory
    precision: str = "fp32"  # or "bf16": products in bfloat16, weights and sums in fp32; "auto": what is fast here
    seed: int = 0

    def __post_init__(self) -> None:
        _check(self, ["steps", "micro_batches"], lambda count: count >= 1, "at least 1")
        _check(self, ["lr", "muon_lr", "clip", "eps"], lambda number: number > 0, "above 0")
        _check(self, ["warmup", "final_lr", "weight_decay"], lambda number: number >= 0, "at least 0")
        _check(self, ["betas"], lambda betas: all(0 <= beta < 1 for beta in betas), "in [0, 1)")
        choices = dict(schedule=("linear", "cosine"), optimizer=("adamw", "muon"), precision=("fp32", "bf16", "auto"))
        _check_choices(self, **choices)


def _check(config: object, names: Sequence[str], fits: Callable, rule: str) -> None:
    for name in names:
        if not fits(getattr(config, name)):
            raise ValueError(f"{name}={getattr(config, name)!r}: must be {rule}")


def _check_choices(config: object, **choices: tuple) -> None:
    for name, allowed in choices.items():
        _check(config, [name], allowed.__contains__, " or ".join(allowed))


def _check_size(size: str, sizes: dict) -> None:
    if size not in sizes:
        raise ValueError(f"size={size!r}: must be {' or '.join(sizes)}")
