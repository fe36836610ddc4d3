"""One run in several processes, as torchrun starts them. A first reading skips this file.

Each process holds the whole model and computes the gradient of its share of the batch's rows; PyTorch's DDP adds the
gradients up, so every process takes the step that one process alone would have taken. Without a process group nothing
in here does anything.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from ..data import IGNORE, Batch


def size() -> int:
    """How many processes share the run."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """This process's number among them, from 0."""
    return distributed.get_rank() if size() > 1 else 0


def replicate(model: nn.Module) -> nn.Module:
    """The model as `pieces` needs it: its backward pass adds up the gradients of all processes."""
    if size() == 1:
        return model
    replica = DistributedDataParallel(model)
    replica.register_comm_hook(None, _sum)  # DDP's own hook takes the mean
    return replica


def pieces(replica: nn.Module, batch: Batch, count: int) -> Iterator[Batch]:
    """This process's rows of the batch in at most `count` pieces, at least one, for forward and backward in turn.

    A process for which there is no row gets one without a target: the others wait for its gradient, which is zero.
    """
    if size() == 1:
        yield from batch.split(count)
        return
    mine = Batch(batch.inputs[rank() :: size()], batch.targets[rank() :: size()])
    if len(mine.inputs) == 0:
        mine = Batch(batch.inputs[:1], torch.full_like(batch.targets[:1], IGNORE))
    *early, last = mine.split(count)
    with replica.no_sync():  # the pieces' gradients gather here …
        yield from early
    yield last  # … and are added up over the processes in the last backward pass


def total(number: float, device: torch.device | str = "cpu") -> float:
    """The sum of every process's number; each gets the same."""
    if size() == 1:
        return number
    summed = torch.tensor(number, dtype=torch.float64, device=device)
    distributed.all_reduce(summed)
    return summed.item()


def _sum(_: None, bucket: distributed.GradBucket) -> torch.futures.Future[Tensor]:
    return distributed.all_reduce(bucket.buffer(), async_op=True).get_future().then(lambda done: done.value()[0])
