"""What a model is and how it is trained, as frozen values: all the numbers that a run depends on."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from numbers import Integral


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
        check(vars(self), ["vocab_size", "context_length", "n_layers", "n_heads", "d_model"], *COUNT)
        if self.n_kv_heads is None:
            object.__setattr__(self, "n_kv_heads", self.n_heads)
        if self.d_ff is None:
            width = 4 * self.d_model if self.mlp == "gelu" else 32 * math.ceil(8 * self.d_model / 3 / 32)
            object.__setattr__(self, "d_ff", width)
        check(vars(self), ["n_kv_heads", "d_ff"], *COUNT)
        check(vars(self), ["norm_eps", "rope_theta"], *POSITIVE)
        check(vars(self), ["bias", "tie_embeddings"], lambda switch: isinstance(switch, bool), "True or False")
        _check_choices(self, norm=("rmsnorm", "layernorm"), position=("rope", "learned"), mlp=("swiglu", "gelu"))
        check(vars(self), ["d_model"], lambda C: C % self.n_heads == 0, f"a multiple of n_heads={self.n_heads}")
        check(vars(self), ["n_kv_heads"], lambda K: self.n_heads % K == 0, f"a divisor of {self.n_heads}")
        check({"d_head": self.d_head}, ["d_head"], lambda D: self.position != "rope" or D % 2 == 0, "even, for rope")
        check(vars(self), ["dropout"], lambda rate: 0 <= rate < 1, "in [0, 1)")

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
        return cls(**GPT2 | _shape(GPT2_SIZES, size) | changes)

    @classmethod
    def llama(cls, size: str = "8B", **changes) -> "GPTConfig":
        """Llama 3 with 8B, 70B or 405B parameters (Grattafiori et al. 2024, arXiv:2407.21783, table 3), or SmolLM2 with
        135M (Allal et al. 2025, arXiv:2502.02737).
        """
        if size in SMOLLM2_SIZES:
            return cls(**SMOLLM2 | _shape(SMOLLM2_SIZES, size) | changes)
        return cls(**LLAMA | _shape(LLAMA_SIZES, size) | changes)


TOY = dict(vocab_size=1024, context_length=128, n_layers=4, n_heads=4, d_model=128, d_ff=352)
GPT2 = dict(vocab_size=50257, context_length=1024, norm="layernorm", position="learned", mlp="gelu", bias=True)
GPT2_SIZES = {"124M": (12, 12, 768), "355M": (24, 16, 1024), "774M": (36, 20, 1280), "1558M": (48, 25, 1600)}
LLAMA = dict(vocab_size=128256, context_length=8192, n_kv_heads=8, tie_embeddings=False, rope_theta=500_000.0)
LLAMA_SIZES = {"8B": (32, 32, 4096, 14336), "70B": (80, 64, 8192, 28672), "405B": (126, 128, 16384, 53248)}
SMOLLM2 = dict(vocab_size=49152, context_length=8192, n_kv_heads=3, rope_theta=100_000.0)
SMOLLM2_SIZES = {"135M": (30, 9, 576, 1536)}


def _shape(sizes: dict[str, tuple], size: str) -> dict[str, int]:
    if size not in sizes:
        raise ValueError(f"size={size!r}: must be {' or '.join(sizes)}")
    return dict(zip(("n_layers", "n_heads", "d_model", "d_ff"), sizes[size]))


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
        check(vars(self), ["steps", "micro_batches"], *COUNT)
        check(vars(self), ["warmup", "seed"], *WHOLE)
        check(vars(self), ["lr", "muon_lr", "clip", "eps"], *POSITIVE)
        check(vars(self), ["weight_decay"], lambda rate: 0 <= rate < math.inf, "at least 0, and finite")
        check(vars(self), ["final_lr"], lambda share: 0 <= share <= 1, "at least 0 and at most 1, a share of lr")
        check(vars(self), ["betas"], lambda bs: len(bs) == 2 and all(0 <= b < 1 for b in bs), "two numbers in [0, 1)")
        _check_choices(self, schedule=("linear", "cosine"), optimizer=("adamw", "muon"))
        _check_choices(self, precision=("fp32", "bf16", "auto"))


# three common rules: a test, and the same in words
WHOLE = (lambda n: isinstance(n, Integral) and not isinstance(n, bool) and n >= 0), "at least 0, a whole number"
COUNT = (lambda n: WHOLE[0](n) and n >= 1), "at least 1, a whole number"
POSITIVE = (lambda number: 0 < number < math.inf), "above 0, and finite"


def check(values: dict[str, object], names: Iterable[str], fits: Callable, rule: str) -> None:
    """ValueError that tells the rule unless the values of these names fit."""
    for name in names:
        value = values[name]
        try:
            right = fits(value)
        except TypeError:  # a text for a number, say
            right = False
        if not right:
            raise ValueError(f"{name}={value!r:.40}: must be {rule}")


def _check_choices(config: object, **choices: tuple) -> None:
    for name, allowed in choices.items():
        check(vars(config), [name], allowed.__contains__, " or ".join(allowed))
