"""Several processes take part in one run: torchrun starts them, and they meet here."""

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
def joined(device: str) -> Iterator[str]:
    """Meet the other processes of the run, if torchrun started several; gives the device of this one.

    A user's mistake is met by all of them; only the first process reports it.
    """
    import torch
    from torch import distributed

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    elif device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: PyTorch finds no such device here, leave it out or use cpu")
    if processes() == 1:
        yield device
        return
    if device == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)

    # Loaded before there is a group, or its functions' defaults would keep the group and its threads to the very end.
    import torch.distributed.nn

    # A very long limit: the others wait while the first prepares or evaluates, and torchrun ends them if it dies.
    distributed.init_process_group("gloo" if device == "cpu" else "nccl", timeout=timedelta(days=7))
    try:
        yield device
    except (ValueError, FileNotFoundError, FloatingPointError):
        if distributed.get_rank() == 0:
            raise
        sys.exit(2)
    distributed.destroy_process_group()


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
