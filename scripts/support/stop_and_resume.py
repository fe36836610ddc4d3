"""How a training run is stopped, saved, resumed and logged."""

import json
import math
import re
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

from minigpt.fast import processes
from minigpt.files.checkpoint import checkpoints
from minigpt.files.reading import file_hash
from minigpt.files.text_files import read_corpus
from minigpt.files.writing import remove, write_text
from scripts.support.plots import save_loss_plot
from scripts.support.run_directory import read_rows
from scripts.support.terminal import visible
from scripts.support.torchrun import once


class Stop:
    """Inside it, Ctrl-C or SIGTERM is only noted in `signal`, so that the run can stop; a second one stops at once."""

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
    """Pass a training run's Steps on; when Ctrl-C stops it, save. When it stops or fails, say how to resume it."""
    with Stop() as stop:
        try:
            for step in steps:
                yield step

                # whichever process received the signal, all stop after the same step
                if processes.total(stop.signal, device):
                    save()
                    with once() as first:
                        if first:
                            print(
                                visible(f"\nstopped after step {step.step}; {how_to_resume(directory)}"),
                                file=sys.stderr,
                            )
                    sys.exit(128 + (stop.signal or signal.SIGINT))
        except FloatingPointError as problem:
            anew = "another learning rate is another run (OVERWRITE=1)"
            raise FloatingPointError(f"{problem}; {anew}; {how_to_resume(directory)}") from problem


def how_to_resume(directory: Path) -> str:
    saved = checkpoints(directory)
    if not saved:
        return "there is no save to resume from"
    return f"the same command with --resume (RESUME=1) resumes from {directory}/checkpoints/{saved[-1].name}"


def which_save(name: str) -> int | bool:
    """The step of the save that --resume names: 40, step-40 or a path that ends like this; True for the newest.

    >>> which_save("runs/books/checkpoints/step-40"), which_save("newest")
    (40, True)
    """
    found = re.fullmatch(r"(?:.*step-)?0*([1-9]\d*)/?", name)
    if name != "newest" and not found:
        raise ValueError(
            f"--resume {name or repr(name)}: must be the step of a save, like 40 or checkpoints/step-40, or be left out"
        )
    return int(found[1]) if found else True


def refuse_saves(directory: Path, overwrite: bool) -> None:
    """ValueError when the directory holds a run that can be resumed, unless it may be overwritten."""
    saved = checkpoints(directory)
    if saved and not overwrite:
        raise ValueError(f"{saved[-1]}: a run is saved here; resume it with RESUME=1 or start again with OVERWRITE=1")


def fingerprint(patterns: Iterable[str]) -> str:
    """A hash of all files that match the patterns: a run is resumed only with the text that it began with."""
    return sha256("".join(map(file_hash, read_corpus(patterns).paths)).encode()).hexdigest()[:16]


def prepared_files(directory: Path) -> dict[str, str]:
    """The hash of each file that preparation makes; FileNotFoundError if one is missing."""
    paths = [directory / name for name in ("tokenizer.json", "train.npy", "val.npy")]
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"{path}: is missing, there is no run to resume")
    return {path.name: file_hash(path)[:16] for path in paths}


LOGGED = {"step": int, "loss": float, "lr": float, "grad_norm": float, "tokens": int, "seconds": float}


def is_whole(row: object) -> bool:
    """Whether this is a row of a log as it was written, with numbers only."""
    return (
        isinstance(row, dict)
        and all(type(row.get(name)) is kind for name, kind in LOGGED.items())
        and type(row.get("val_loss", 0.0)) is float
        and row["seconds"] > 0
    )


def step_of(line: str) -> float:
    """The step that a line of a log tells of; infinity if the line is damaged, as a kill may leave the last one."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return math.inf
    return row["step"] if is_whole(row) else math.inf


CURVES = "tensorboard"  # a run's directory of them


def require_tensorboard(asked: bool) -> None:
    """ValueError, before any work, when TensorBoard's files are asked for and can't be written."""
    if asked and find_spec("tensorboard") is None:
        raise ValueError(
            "--tensorboard: the extra tensorboard is not installed; "
            'python -m pip install -c constraints.txt -e ".[tensorboard]" in .venv installs it, or leave the flag out'
        )


class LossLog:
    """A run's log.jsonl: one line per step, with the validation loss where it was measured; and its plot.

    done: how many steps a resumed run has behind it. Later lines are removed, since their steps are made again. The
    log may have been lost: then it begins here. ValueError if it is a link, which would be followed to elsewhere.
    tensorboard: the same numbers go into the directory's tensorboard/, too.
    """

    def __init__(self, directory: Path, done: int = 0, tensorboard: bool = False):
        self.directory = directory
        self.path = directory / "log.jsonl"
        if self.path.is_symlink():
            raise ValueError(f"{self.path}: is a link to {self.path.resolve()}; remove it, or choose another OUT=…")
        kept = []
        if done and self.path.is_file():
            lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
            kept = [line for line in lines if step_of(line) <= done]
        write_text(self.path, "".join(kept))

        # the curves of another run go; those of a resumed one are kept up to here
        if not done:
            remove(directory / CURVES)
        self.curves = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter  # here: it is an extra

            self.curves = SummaryWriter(str(directory / CURVES), purge_step=done + 1, flush_secs=10)

    def add(self, step, validation: float | None = None) -> None:
        row = {"step": step.step, "loss": step.loss, "lr": step.lr, "grad_norm": step.grad_norm}
        row |= {"tokens": step.tokens, "seconds": step.seconds}
        if validation is not None:
            row["val_loss"] = validation
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as problem:
            problem.filename = str(self.path)  # of a full disk, Python names no file
            raise
        if self.curves:
            row["tokens_per_second"] = step.tokens / step.seconds
            for name in row.keys() - {"step", "tokens", "seconds"}:
                self.curves.add_scalar(name, row[name], step.step)

    def rows(self) -> list[dict]:
        return read_rows(self.path)

    def plot(self) -> None:
        """The run is over: draw it."""
        if self.curves:
            self.curves.close()
        save_loss_plot(self.directory)
