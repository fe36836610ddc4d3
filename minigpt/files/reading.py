"""JSON and safetensors files, read so that every error names the file. Reading one never runs code from it."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor


@dataclass(frozen=True)
class Stored:
    """A tensor that is still on disk."""

    shape: tuple[int, ...]
    read: Callable[[], Tensor]


def read_json(path: Path) -> dict:
    """The object in a JSON file. ValueError when it holds anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as problem:
        raise ValueError(f"{path}:{problem.lineno}: not JSON ({problem.msg})") from problem
    except UnicodeDecodeError as problem:
        raise ValueError(f"{path}: not UTF-8 text (at byte {problem.start})") from problem
    if not isinstance(content, dict):
        raise ValueError(f"{path}: must be an object with keys, not {content!r:.60}")
    return content


def read_tensors(path: Path) -> dict[str, Stored]:
    """The tensors of a safetensors file by name, to be read one by one: so memory holds one at a time.

    FileNotFoundError or ValueError when the file is missing or damaged.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: this part of the model is missing")
    try:
        with safe_open(path, "pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as problem:
        raise ValueError(f"{path}: damaged or cut short ({problem})") from problem
    return {name: Stored(shape, partial(_read_tensor, path, name)) for name, shape in shapes.items()}


def _read_tensor(path: Path, name: str) -> Tensor:
    with safe_open(path, "pt") as file:  # opened for each tensor: an open file keeps all that was read in memory
        return file.get_tensor(name)


def file_hash(path: Path | str) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()
