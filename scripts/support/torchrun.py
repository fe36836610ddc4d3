"""Several processes take part in one run: torchrun starts them, and they meet here."""

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta


def processes() -> int:
    """How many processes torchrun has started for this run."""
    count = os.environ.get("WORLD_SIZE", "1")
    if not (count.isdecimal() and int(count) >= 1):
        raise ValueError(f"WORLD_SIZE is {count!r} in the environment: must be the number that torchrun sets, or unset")
    return int(count)


@contextmanager
def joined(device: str, sharded: bool = False) -> Iterator[str]:
    """Meet the other processes of the run, if torchrun started several; gives the device of this one.

    sharded: a model that is split needs a group even of one process. A user's mistake is met by all of them; only the
    first process reports it.
    """
    import torch
    from torch import distributed

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    elif device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: PyTorch finds no such device here, leave it out or use cpu")
    if processes() == 1 and not sharded:
        yield device
        return
    if device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(device)

    # Loaded before there is a group, or its functions' defaults would keep the group and its threads to the very end.
    import torch.distributed.nn

    # A very long limit: the others wait while the first prepares or evaluates, and torchrun ends them if it dies.
    alone = {"store": distributed.HashStore(), "rank": 0, "world_size": 1} if processes() == 1 else {}
    distributed.init_process_group("gloo" if device == "cpu" else "nccl", timeout=timedelta(days=7), **alone)
    try:
        yield device
    except (ValueError, OSError, FloatingPointError):
        if distributed.get_rank() == 0:
            raise
        sys.exit(2)
    distributed.destroy_process_group()
    if sharded:
        let_go_of_meshes()


def let_go_of_meshes() -> None:
    """Let the group end, threads and all: PyTorch's caches keep a sharded model's mesh, which keeps the group."""
    from torch.distributed.device_mesh import DeviceMesh

    for mesh in [each for each in gc.get_objects() if type(each) is DeviceMesh]:
        getattr(mesh, "_pg_registry", {}).clear()
    gc.collect()


@contextmanager
def once() -> Iterator[bool]:
    """True in the one process that does the work inside; the others wait at the end until it is done."""
    from torch import distributed

    from minigpt.fast import processes as parallel

    yield parallel.rank() == 0
    if parallel.size() > 1:
        try:
            distributed.barrier()
        except RuntimeError:  # the first process has ended, and has said why
            sys.exit(2)
