"""THE loop (P3): pretraining and fine-tuning both call `train`, and nothing in here can tell the two apart (S5).

It takes any module whose forward(ids) gives logits, and any function from the step's number to a Batch.
"""

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from .config import TrainConfig
from .data import IGNORE, Batch, Batches
from .fast import processes as parallel
from .fast.muon import Muon
from .formulas import cross_entropy
from .optim import AdamW, clip_gradients, learning_rate


@dataclass(frozen=True)
class Step:
    """One optimizer step as `train` reports it; loss is the mean in nats over its learnt tokens, before the update."""

    step: int  # 1 for the first
    loss: float
    lr: float
    grad_norm: float
    tokens: int  # learnt targets in the batch
    seconds: float


@dataclass
class TrainState:
    """What a checkpoint adds to the weights: the steps done and the optimizers' moments.

    `train` keeps it up to date; passing it back resumes. Nothing random needs saving: batches are a function of the
    step, and dropout is seeded anew by every step.
    """

    step: int = 0
    moments: dict[str, Tensor] = field(default_factory=dict)


def train(
    model: nn.Module,
    batches: Batches,
    config: TrainConfig,
    state: TrainState | None = None,
    compiled: nn.Module | None = None,
) -> Iterator[Step]:
    """Train the model in place, yielding a Step after each update until config.steps are done.

    batches: step (from 0) -> Batch. state: from an earlier run, to go on where it ended, or a fresh one to be filled.
    compiled: torch.compile(model), to compute the logits more quickly. Several processes (parallel.py) share each
    batch's rows and take the same step as one. ValueError for a batch without a target; FloatingPointError when loss
    or gradients stop being finite, before they reach the weights.
    """
    state = TrainState() if state is None else state
    forward = parallel.replicate(model if compiled is None else compiled)
    device = next(model.parameters()).device
    parameters = list(model.parameters())
    optimizers = make_optimizers(model, config, state)
    for step in range(state.step, config.steps):
        started = time.perf_counter()
        model.train()  # here, as whoever consumes the steps may evaluate in between
        torch.manual_seed(hash((config.seed, step, parallel.rank())))  # dropout: each step can be repeated
        batch = batches(step).to(device)
        tokens, loss = batch.learnt(), 0.0
        if tokens == 0:
            raise ValueError(f"step {step + 1}: the batch holds no target to learn")
        for parameter in parameters:
            parameter.grad = None
        for piece in parallel.pieces(forward, batch, config.micro_batches):
            with autocast(device, config.precision):
                logits = forward(piece.inputs)
            # Divided by the whole batch's targets, so any number of pieces adds up to the same gradient.
            piece_loss = cross_entropy(logits, piece.targets, IGNORE, "sum", fused=True) / tokens
            piece_loss.backward()
            loss += piece_loss.item()
        loss = parallel.total(loss, device)
        grad_norm = clip_gradients([parameter.grad for parameter in parameters], config.clip)
        share = learning_rate(step, config)
        _check_finite(model, step + 1, loss, grad_norm, config.lr * share)
        for optimizer, peak in optimizers:
            optimizer.step(peak * share, step + 1)
        state.step = step + 1
        yield Step(step + 1, loss, config.lr * share, grad_norm, tokens, time.perf_counter() - started)


@torch.inference_mode()
def evaluate(model: nn.Module, batches: Iterable[Batch], precision: str = "fp32") -> float:
    """Mean loss in nats over all learnt targets of the batches, each target counting the same.

    The model's mode, training or not, is put back. ValueError when there is no target.
    """
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    total, tokens = 0.0, 0
    for batch in batches:
        batch = batch.to(device)
        with autocast(device, precision):
            logits = model(batch.inputs)
        total += cross_entropy(logits, batch.targets, IGNORE, "sum", fused=True).item()
        tokens += batch.learnt()
    model.train(was_training)
    if tokens == 0:
        raise ValueError("nothing to evaluate: the batches hold no target")
    return total / tokens


def make_optimizers(model: nn.Module, config: TrainConfig, state: TrainState) -> list[tuple[AdamW | Muon, float]]:
    """Each parameter in exactly one optimizer, with that optimizer's peak learning rate; moments live in the state."""
    rest = dict(model.named_parameters())  # a tied weight is in here once
    optimizers: list[tuple[AdamW | Muon, float]] = []
    if config.optimizer == "muon":
        names = [name for name, p in rest.items() if p.ndim == 2 and "embedding" not in name and name != "head.weight"]
        dtype = product_dtype(next(model.parameters()).device, config.precision)
        optimizers.append((Muon({name: rest.pop(name) for name in names}, config.betas[0], dtype), config.muon_lr))
    optimizers.append((AdamW(rest, config.betas, config.eps, config.weight_decay), config.lr))
    moments = {name: moment for optimizer, _ in optimizers for name, moment in optimizer.moments.items()}
    if state.moments and state.moments.keys() != moments.keys():
        raise ValueError(f"the saved moments are not those of optimizer={config.optimizer!r} on this model")
    for name, saved in state.moments.items():
        moments[name].copy_(saved)
    state.moments = moments
    return optimizers


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Matrix products in bfloat16, if `product_dtype` says so."""
    return torch.autocast(device.type, torch.bfloat16, enabled=product_dtype(device, precision) == torch.bfloat16)


def product_dtype(device: torch.device, precision: str) -> torch.dtype:
    """In which type matrices are multiplied: "auto" is bfloat16 where the processor has such instructions."""
    if precision == "auto":
        quick = device.type == "cuda" or torch.cpu._is_avx512_bf16_supported()
        precision = "bf16" if quick else "fp32"
    return torch.bfloat16 if precision == "bf16" else torch.float32


def _check_finite(model: nn.Module, step: int, loss: float, grad_norm: float, lr: float) -> None:
    if math.isfinite(loss) and math.isfinite(grad_norm):
        return
    bad = (name for name, p in model.named_parameters() if not p.grad.isfinite().all())
    raise FloatingPointError(
        f"step {step}: loss {loss}, gradient norm {grad_norm} at learning rate {lr:g}; first gradient that is not "
        f"finite: {next(bad, 'none')}. Try a smaller learning rate; the weights are those of step {step - 1}"
    )
