"""From gradients to new weights: AdamW, the learning rate's rise and fall, and gradient clipping (P3)."""

import math

import torch
from torch import Tensor, nn

from .config import TrainConfig


class AdamW:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, arXiv:1711.05101, algorithm 2).

    parameters: by name; one whose .grad is None is left alone. Matrices, embeddings included, are decayed; norms and
    biases are not. `moments` holds all there is to remember, so a checkpoint saves just that.

    >>> weight = torch.nn.Parameter(torch.tensor([[1.0]]))
    >>> weight.grad = torch.tensor([[0.5]])
    >>> AdamW({"w": weight}, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0).step(lr=0.1, count=1)
    >>> weight.item()                                  # the first step has length lr, whatever the gradient's size
    0.8999...
    """

    def __init__(self, parameters: dict[str, Tensor], betas: tuple[float, float], eps: float, weight_decay: float):
        self.parameters, self.betas, self.eps, self.weight_decay = parameters, betas, eps, weight_decay
        self.moments = {f"mean.{name}": torch.zeros_like(p) for name, p in parameters.items()}
        self.moments |= {f"square.{name}": torch.zeros_like(p) for name, p in parameters.items()}

    @torch.no_grad()
    def step(self, lr: float, count: int) -> None:
        """Move every parameter that has a gradient; count is 1 for the first step."""
        beta1, beta2 = self.betas
        for name, parameter in self.parameters.items():
            if parameter.grad is None:
                continue

            # running means of the gradient and of its square
            mean, square = self.moments[f"mean.{name}"], self.moments[f"square.{name}"]
            mean.lerp_(parameter.grad, 1 - beta1)
            square.mul_(beta2).addcmul_(parameter.grad, parameter.grad, value=1 - beta2)

            # decay
            if parameter.ndim >= 2:
                parameter.mul_(1 - lr * self.weight_decay)

            # move: both means start at 0, so early on they are too small by these factors
            root = (square / (1 - beta2**count)).sqrt() + self.eps
            parameter.addcdiv_(mean, root, value=-lr / (1 - beta1**count))  # += value · mean / root


def make_optimizers(model: nn.Module, config: TrainConfig, dtype: torch.dtype) -> list[tuple]:
    """Each trainable parameter in exactly one optimizer: pairs of an optimizer and its peak learning rate.

    dtype: in which Muon multiplies matrices, if config asks for it.
    """
    rest = {name: p for name, p in model.named_parameters() if p.requires_grad}  # a tied weight is in here once
    if not rest:
        raise ValueError("there is nothing to train: every parameter of the model is frozen")
    optimizers = []
    if config.optimizer == "muon":
        from .fast.muon import Muon

        names = [name for name, p in rest.items() if p.ndim == 2 and "embedding" not in name and name != "head.weight"]
        matrices = {name: rest.pop(name) for name in names}
        optimizers.append((Muon(matrices, config.betas[0], dtype), config.muon_lr))
    optimizers.append((AdamW(rest, config.betas, config.eps, config.weight_decay), config.lr))
    return optimizers


def learning_rate(step: int, config: TrainConfig) -> float:
    """The learning rate of a step (from 0) as a share of the peak: linear warm-up, then linear or cosine decay.

    >>> plan = TrainConfig(steps=100, warmup=10, final_lr=0.1)
    >>> [round(learning_rate(step, plan), 3) for step in (0, 9, 10, 99)]
    [0.1, 1.0, 1.0, 0.1]
    """
    if step < config.warmup:
        return (step + 1) / config.warmup
    done = min(1, (step - config.warmup) / max(1, config.steps - 1 - config.warmup))  # past the end it stays at 1
    fall = done if config.schedule == "linear" else (1 - math.cos(math.pi * done)) / 2
    return 1 - (1 - config.final_lr) * fall


def clip_gradients(gradients: list[Tensor], largest: float) -> float:
    """Scale all gradients, in place, so that their joint norm is at most `largest`; return the norm they had.

    gradients: of any shapes; largest: a norm above 0. Pascanu et al. 2013, arXiv:1211.5063, algorithm 1.

    >>> gradients = [torch.tensor([3.0]), torch.tensor([4.0])]
    >>> clip_gradients(gradients, 1.0), gradients
    (5.0, [tensor([0.6000]), tensor([0.8000])])
    """
    norm = torch.stack([gradient.norm() for gradient in gradients]).norm().item()
    if norm > largest:
        for gradient in gradients:
            gradient.mul_(largest / norm)
    return norm
