"""Models larger than one device (P4): each process holds a share of every weight, gradient and moment, by FSDP2.

The loop, AdamW and evaluation stay as they are: their formulas act on shares as on whole tensors. Not a twin, since
nothing gets faster; tests/test_sharded.py holds a step of several processes equal to a step of one.
"""

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.utils.checkpoint import checkpoint

from ..config import TrainConfig
from ..data import IGNORE, Batch
from ..loop import summed_loss
from ..model import GPT, Cache
from .processes import rank, size, total


def shard(model: GPT, device: torch.device | str = "cpu") -> GPT:
    """Split every parameter over all processes' devices, in place; the model is returned. Every process must call it.

    A block's weights are gathered when it is computed, forward and backward, and let go after it: beside its share, a
    device holds one block at a time. The model is built in main memory before. Rajbhandari et al. 2020,
    arXiv:1910.02054, stage 3.
    """
    mesh = init_device_mesh(torch.device(device).type, (size(),))
    for part in (*model.blocks, model):  # the model itself: what is in no block
        fully_shard(part, mesh=mesh, reshard_after_forward=True)
    return model


def accumulate_gradients(forward: nn.Module, batch: Batch, config: TrainConfig) -> float:
    """As in processes.py, for a sharded model: each process takes its rows, and FSDP adds up the gradients."""
    # every process takes part in every pass: rows without a target make their numbers equal
    B = len(batch.inputs)
    rows = torch.arange(rank(), -(-B // size()) * size(), size(), device=batch.inputs.device)
    targets = batch.targets[rows % B].masked_fill((rows >= B)[:, None], IGNORE)
    mine = Batch(batch.inputs[rows % B], targets)

    loss = 0.0
    for piece in mine.split(config.micro_batches):
        piece_loss = summed_loss(forward, piece, config.precision) / batch.learnt()
        (piece_loss * size()).backward()  # subtle: FSDP takes the mean of all processes, and we need their sum
        loss += piece_loss.item()
    return total(loss, batch.inputs.device)


def gather(model: GPT) -> GPT | None:
    """The whole model on the first process's CPU, None on the others. Every process must call it."""
    weights = {}
    for name, tensor in model.state_dict().items():
        whole = tensor.full_tensor()  # one at a time
        if rank() == 0:
            weights[name] = whole.cpu()
    if rank() > 0:
        return None
    with torch.device("meta"):
        alone = GPT(model.config)
    alone.load_state_dict(weights, assign=True)
    if model.config.tie_embeddings:
        alone.head.weight = alone.token_embedding.weight
    return alone


def recompute(model: GPT) -> GPT:
    """From now on, training keeps only what enters each block, and computes its inside again in the backward pass.

    In place; the model is returned. Memory for time: a step computes every block twice. Chen et al. 2016,
    arXiv:1604.06174.
    """
    for block in model.blocks:
        block.forward = _Recomputed(block.forward)
    return model


class _Recomputed:
    """A block's forward pass, whose inside is not kept. While decoding, which needs no gradients, it stays as it is."""

    def __init__(self, forward):
        self.forward = forward

    def __call__(self, x: Tensor, positions: Tensor, cache: Cache, drop: float) -> Tensor:
        if not torch.is_grad_enabled():
            return self.forward(x, positions, cache, drop)
        inside = lambda x: self.forward(x, positions, {}, drop)  # subtle: a cache would be filled twice
        return checkpoint(inside, x, use_reentrant=False)
