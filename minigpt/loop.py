"""THE loop (P3): pretraining and fine-tuning both call `train`, and nothing in here can tell the two apart (S5).

It takes any module whose forward(ids) gives logits, and any function from the step's number to a Batch.
"""

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from plain_or_fast import has_twin

from .config import TrainConfig
from .data import IGNORE, Batch, Batches
from .formulas import cross_entropy
from .optim import clip_gradients, learning_rate, make_optimizers


@dataclass(frozen=True)
class Step:
    """One optimizer step as `train` reports it."""

    step: int  # 1 for the first
    loss: float  # mean in nats over the learnt tokens, before the update
    lr: float
    grad_norm: float
    tokens: int  # learnt targets in the batch
    seconds: float


@dataclass
class TrainState:
    """What a checkpoint adds to the weights. `train` keeps it up to date; passing it back resumes.

    No random state has to be saved: batches are a function of the step, and every step seeds dropout anew.
    """

    step: int = 0  # how many are done
    moments: dict[str, Tensor] = field(default_factory=dict)


def train(
    model: nn.Module, batches: Batches, config: TrainConfig, state: TrainState | None = None,
    compiled: nn.Module | None = None,
) -> Iterator[Step]:  # fmt: skip
    """Train the model in place: each Step that is asked for is one update, until config.steps are done.

    batches: step (from 0) -> Batch. state: of an earlier run, to continue it, or a fresh one to be filled. compiled:
    torch.compile(model), to compute the logits faster. Frozen and unused parameters stay as they are. ValueError for a
    batch without a target; FloatingPointError when loss or gradients stop being finite, before they reach the weights.
    """
    state = TrainState() if state is None else state
    forward = model if compiled is None else compiled
    device = next(model.parameters()).device
    optimizers = make_optimizers(model, config, product_dtype(device, config.precision))
    restore(optimizers, state, config)

    for step in range(state.step, config.steps):
        started = time.perf_counter()
        model.train()  # in every step, as the consumer of the steps may evaluate in between
        torch.manual_seed(hash((config.seed, step)))  # dropout: each step can be repeated

        # get the batch
        batch = batches(step).to(device)
        tokens = batch.learnt()
        if tokens == 0:
            raise ValueError(f"step {step + 1}: the batch holds no target to learn")

        # compute the loss and its gradients
        model.zero_grad(set_to_none=True)
        loss = accumulate_gradients(forward, batch, config)
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        grad_norm = clip_gradients(gradients, config.clip)

        # move the weights
        share = learning_rate(step, config)  # of the peak
        _check_finite(model, step + 1, loss, grad_norm, config.lr * share)
        for optimizer, peak in optimizers:
            optimizer.step(peak * share, step + 1)
        state.step = step + 1
        yield Step(step + 1, loss, config.lr * share, grad_norm, tokens, time.perf_counter() - started)


@has_twin("minigpt.fast.processes")
def accumulate_gradients(forward: nn.Module, batch: Batch, config: TrainConfig) -> float:
    """Add the gradient of the batch's mean loss to every parameter's grad; return the loss in nats.

    Each micro batch's sum is divided by the targets of the whole batch, so any number of them adds up to the same.
    """
    tokens, loss = batch.learnt(), 0.0
    for piece in batch.split(config.micro_batches):
        piece_loss = summed_loss(forward, piece, config.precision) / tokens
        piece_loss.backward()
        loss += piece_loss.item()
    return loss


@torch.no_grad()  # not inference_mode, in which a sharded model gathers weights that no later step can train
def evaluate(model: nn.Module, batches: Iterable[Batch], precision: str = "fp32") -> float:
    """Mean loss in nats over all learnt targets of the batches, each target counting the same.

    The model's mode, training or not, is restored. ValueError when there is no target.
    """
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    total, tokens = 0.0, 0
    for batch in batches:
        batch = batch.to(device)
        total += summed_loss(model, batch, precision).item()
        tokens += batch.learnt()
    model.train(was_training)
    if tokens == 0:
        raise ValueError("nothing to evaluate: the batches hold no target")
    return total / tokens


def summed_loss(forward: nn.Module, batch: Batch, precision: str) -> Tensor:
    """The sum of the batch's losses in nats, with matrix products in the type that `product_dtype` says."""
    device = batch.inputs.device
    with torch.autocast(device.type, torch.bfloat16, enabled=product_dtype(device, precision) == torch.bfloat16):
        logits = forward(batch.inputs)
    return cross_entropy(logits, batch.targets, IGNORE, "sum")


def restore(optimizers: list[tuple], state: TrainState, config: TrainConfig) -> None:
    """Put saved moments into the optimizers; from here on the state holds theirs."""
    moments = {name: moment for optimizer, _ in optimizers for name, moment in optimizer.moments.items()}
    if state.moments and state.moments.keys() != moments.keys():
        raise ValueError(f"the saved moments are not those of optimizer={config.optimizer!r} on this model")
    for name, saved in state.moments.items():
        moments[name].copy_(saved)
    state.moments = moments


def product_dtype(device: torch.device, precision: str) -> torch.dtype:
    """The type in which matrices are multiplied: "auto" is bfloat16 where the processor has instructions for it."""
    if precision == "auto":
        has_instructions = device.type == "cuda" or torch.cpu._is_avx512_bf16_supported()
        precision = "bf16" if has_instructions else "fp32"
    if precision not in ("bf16", "fp32"):
        raise ValueError(f"precision={precision!r}: must be fp32 or bf16 or auto")
    return torch.bfloat16 if precision == "bf16" else torch.float32


def _check_finite(model: nn.Module, step: int, loss: float, grad_norm: float, lr: float) -> None:
    if math.isfinite(loss) and math.isfinite(grad_norm):
        return
    gradients = ((name, p.grad) for name, p in model.named_parameters() if p.grad is not None)
    bad = next((name for name, gradient in gradients if not gradient.norm().isfinite()), "none")
    raise FloatingPointError(
        f"step {step}: loss {loss}, gradient norm {grad_norm} at learning rate {lr:g}; first gradient that is not "
        f"finite: {bad}. Try a smaller learning rate; the weights are those of step {step - 1}"
    )
