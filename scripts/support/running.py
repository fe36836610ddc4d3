"""What lets a training run be stopped, go on later, and be shared by several processes (torchrun)."""

import os
import re
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from glob import glob
from hashlib import sha256
from pathlib import Path


class Stop:
    """Within it Ctrl-C, or SIGTERM, only notes in `signal` that the run should stop; a second one stops it at once."""

    signal = 0

    def __enter__(self) -> "Stop":
        self.before = {number: signal.signal(number, self.note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def note(self, number: int, _) -> None:
        self.signal = number
        signal.signal(number, self.before[number])

    def __exit__(self, *_) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)


def stoppable(steps: Iterable, directory: Path, save: Callable[[], object], device: str) -> Iterator:
    """Pass a training run's Steps on; when Ctrl-C stops it, save. When it stops or breaks off, say how to go on."""
    from minigpt.fast import processes as parallel
    from minigpt.files.checkpoint import checkpoints

    def how_to_go_on() -> str:
        saved = [path.name for path in checkpoints(directory)]
        again = "the same command with --resume (RESUME=1) goes on from"
        return f"{again} {directory}/checkpoints/{saved[-1]}" if saved else "no save is there to go on from"

    with Stop() as stop:
        try:
            for step in steps:
                yield step
                if parallel.total(stop.signal, device):  # whichever process was told, all stop after the same step
                    with once() as first:
                        if first:
                            save()
                            print(f"\nstopped after step {step.step}; {how_to_go_on()}", file=sys.stderr)
                    sys.exit(128 + (stop.signal or signal.SIGINT))
        except FloatingPointError as problem:
            anew = "another learning rate is another run (OVERWRITE=1)"
            raise FloatingPointError(f"{problem}; {anew}; {how_to_go_on()}") from problem


def which_save(name: str) -> int | bool:
    """The step of a save as --resume names it, 40, step-40 or a path that ends so; True for the newest.

    >>> which_save("runs/books/checkpoints/step-40"), which_save("newest")
    (40, True)
    """
    found = re.fullmatch(r"(?:.*step-)?(\d+)/?", name)
    if name != "newest" and not found:
        raise ValueError(f"--resume {name}: must be the step of a save, like 40 or checkpoints/step-40, or nothing")
    return int(found[1]) if found else True


def refuse_saves(directory: Path, overwrite: bool) -> None:
    """A run that can go on is not begun anew unless asked."""
    from minigpt.files.checkpoint import checkpoints

    saved = checkpoints(directory)
    if saved and not overwrite:
        raise ValueError(f"{saved[-1]}: a run is saved here; go on with RESUME=1 or begin anew with OVERWRITE=1")


def fingerprint(patterns: Iterable[str]) -> str:
    """A hash of all files that match the patterns, to see whether they are the same ones later."""
    from minigpt.files.reading import file_hash

    paths = [path for pattern in patterns for path in sorted(glob(str(pattern)))]
    return sha256("".join(map(file_hash, paths)).encode()).hexdigest()[:16]


def processes() -> int:
    """How many processes torchrun has started for this run."""
    return int(os.environ.get("WORLD_SIZE", 1))


@contextmanager
def joined(device: str) -> Iterator[str]:
    """Meet the other processes of the run, if torchrun started several; gives the device of this one.

    A mistake in what the user gave is met by all of them: the first process says it.
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
    # Loaded before there is a group, or its functions' defaults would hold the group, and its threads, past the end.
    import torch.distributed.nn

    # No limit to speak of: the others wait while the first prepares or evaluates, and torchrun ends them if it dies.
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
    """True in the one process that is to do what follows; the others wait at the end until it is done."""
    from torch import distributed

    from minigpt.fast import processes as parallel

    yield parallel.rank() == 0
    if parallel.size() > 1:
        try:
            distributed.barrier()
        except RuntimeError:  # the first process has left, and has said why
            sys.exit(2)
