"""Checkpoints of a sharded model: each process writes its shares into one file, and any number of them read it back.

torch.distributed.checkpoint plans who writes and reads what. The files are safetensors: no pickle here either.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from torch import Tensor, distributed
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException

from .writing import beside, written_whole


@contextmanager
def written_together(path: Path) -> Iterator[Path]:
    """written_whole for a directory that all processes fill: the first one makes it, and renames it at the end.

    Gives the hidden path. OSError when another process has ended meanwhile.
    """
    first = distributed.get_rank() == 0
    with written_whole(path) if first else nullcontext(beside(path)) as aside:
        if first:
            aside.mkdir()
        _meet()
        yield aside
        _meet()
    _meet()  # it bears its name


def write(directory: Path, tensors: dict[str, Tensor]) -> None:
    """Write each process's shares, synced, and wait for all. OSError, in every process, when one of them can't."""
    try:
        dcp.save(tensors, storage_writer=dcp.HuggingFaceStorageWriter(str(directory), save_distributed=True))
    except CheckpointException as problem:
        raise OSError(f"{directory}: can't be written ({_first(problem)})") from problem


def read(directory: Path, tensors: dict[str, Tensor], together: bool) -> dict[str, Tensor]:
    """Fill the tensors, whole or sharded, from the safetensors files of a checkpoint; return the moments beside them.

    together: whether every process of the run takes part. ValueError, before anything is changed, when the checkpoint
    is that of another model.
    """
    # what is there
    stored = dcp.HuggingFaceStorageReader(str(directory)).read_metadata().state_dict_metadata
    shapes = {name: each.size for name, each in stored.items()}
    owners = {name: name if name in tensors else name.partition(".")[2] for name in shapes}  # mean.head.weight: head's
    fits = all(owner in tensors and tensors[owner].shape == shapes[name] for name, owner in owners.items())
    if not fits or not tensors.keys() <= shapes.keys():
        raise ValueError(f"{directory}: the tensors are those of another model than the one to resume")

    # read it
    moments = {name: torch.zeros_like(tensors[owner]) for name, owner in owners.items() if name != owner}
    to_fill = {name: tensor.detach() for name, tensor in (tensors | moments).items()}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # one process alone needs none
            dcp.load(to_fill, storage_reader=dcp.HuggingFaceStorageReader(str(directory)), no_dist=not together)
    except CheckpointException as problem:
        raise ValueError(f"{directory}: can't be read ({_first(problem)})") from problem
    return moments


def _first(problem: CheckpointException) -> str:
    """What the first of the processes that failed says."""
    rank, (failure, _) = min(problem.failures.items())
    return f"process {rank}: {failure!s:.200}"


def _meet() -> None:
    try:
        distributed.barrier()
    except RuntimeError as problem:
        raise OSError("another process of this run has ended") from problem
