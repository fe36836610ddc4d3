"""Files and directories are written whole or not at all: everything that a run writes goes through `written_whole`."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

ON_WINDOWS = os.name == "nt"  # there a directory can't be opened, and only a file that is open for writing is synced


@contextmanager
def written_whole(path: Path | str) -> Iterator[Path]:
    """Give a hidden path beside `path` at which to write a file or a directory; then sync it and rename it to `path`.

    After a crash or a kill at any moment, `path` holds either its old content or all of the new content. When the
    block fails, the old content stays and nothing else is left; an OSError names the file. What is put into a directory
    is written through this function, too.
    """
    path = Path(path)
    aside = beside(path)
    remove(aside)  # a process that was killed may have left it
    try:
        yield aside

        # put it in place
        _sync(aside)
        if aside.is_dir() and path.exists():
            remove(path)  # a directory can't be renamed over another one
        os.replace(aside, path)
        _sync(path.parent)
    except SafetensorError as problem:
        raise OSError(f"{path}: can't be written ({problem})") from problem
    except OSError as problem:
        if problem.errno and problem.filename in (None, str(aside), aside):
            problem.filename = str(path)  # not the hidden one; of a full disk, Python names no file
        raise
    finally:
        remove(aside)


def beside(path: Path) -> Path:
    """The hidden path at which a file or directory is written."""
    return path.with_name(f".{path.name}.partial")


def remove(path: Path) -> None:
    """Delete a file, a link or a directory, if it exists. A kill leaves no half of a directory under its name."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    hidden = path.with_name(f".{path.name.lstrip('.')}.removed")
    shutil.rmtree(hidden, ignore_errors=True)
    os.replace(path, hidden)
    shutil.rmtree(hidden)


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8; half of a surrogate pair, which UTF-8 lacks, becomes an escape: in JSON, that is itself."""
    with written_whole(path) as aside:
        aside.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, content: object) -> None:
    """Write a value as indented JSON."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as safetensors."""
    contiguous = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    if beside(path).exists():  # a kill left it, and with it what safetensors 0.8 wrote under a name of its own
        for left_over in path.parent.glob(".tmp??????"):
            remove(left_over)
    with written_whole(path) as aside:
        aside.touch()
        mode = aside.stat().st_mode  # a new file's; safetensors 0.8 makes files that nobody else can read
        save_file(contiguous, aside, metadata={"format": "pt"})
        aside.chmod(mode)


def _sync(path: Path) -> None:
    """Wait until a file's content, or a directory's list of names, is on the disk itself."""
    if ON_WINDOWS and path.is_dir():
        return
    handle = os.open(path, os.O_RDWR if ON_WINDOWS else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
