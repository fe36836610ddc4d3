"""The same as loop.accumulate_gradients, faster, in several processes; tests/test_distributed.py holds the two equal.

torchrun starts the processes. Each holds the whole model and computes the gradient of its share of the batch's rows.
The gradients are added up, so every process takes the step that one process alone would have taken.
"""

import torch
from torch import Tensor, distributed, nn

from .. import loop
from ..config import TrainConfig
from ..data import Batch


def accumulate_gradients(forward: nn.Module, batch: Batch, config: TrainConfig) -> float:
    alone = loop.accumulate_gradients.__wrapped__
    if size() == 1:
        return alone(forward, batch, config)

    torch.manual_seed(torch.initial_seed() + rank())  # processes drop different activations
    if is_sharded(forward):
        from . import sharded  # here: it loads much of torch.distributed

        return sharded.accumulate_gradients(forward, batch, config)

    # the gradient of this process's rows, if it has any to learn, as their part of the batch's mean
    mine = Batch(batch.inputs[rank() :: size()], batch.targets[rank() :: size()])
    part, loss = mine.learnt() / batch.learnt(), 0.0
    if part > 0:
        loss = part * alone(forward, mine, config)

    # which parameters have a gradient anywhere: all processes must add up the same ones
    parameters = list(forward.parameters())
    has_gradient = [float(parameter.grad is not None) for parameter in parameters]
    processes = _sum(torch.tensor(has_gradient, device=batch.inputs.device)).tolist()
    parameters = [parameter for parameter, count in zip(parameters, processes) if count > 0]

    # add them up, all in one message
    gradients = [torch.zeros_like(p) if p.grad is None else part * p.grad for p in parameters]
    added = _sum(torch.cat([gradient.flatten() for gradient in gradients]))
    for parameter, gradient in zip(parameters, added.split([p.numel() for p in parameters])):
        parameter.grad = gradient.view_as(parameter).clone()
    return total(loss, batch.inputs.device)


def size() -> int:
    """How many processes share the run."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """This process's number among them, from 0."""
    return distributed.get_rank() if size() > 1 else 0


def is_sharded(model: nn.Module) -> bool:
    """Whether each process holds only its share of the model, as sharded.py splits it."""
    return any(hasattr(parameter, "full_tensor") for parameter in model.parameters())


def total(number: float, device: torch.device | str = "cpu") -> float:
    """The sum of every process's number; each gets the same."""
    return number if size() == 1 else _sum(torch.tensor(number, dtype=torch.float64, device=device)).item()


def _sum(tensor: Tensor) -> Tensor:
    distributed.all_reduce(tensor)
    return tensor
