"""JSON and safetensors files, read so that every error names the file. Reading one never runs code from it."""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

MOST_TEXT = 2**28  # bytes of a JSON file or a template; the largest tokenizers take an eighth of it


@dataclass(frozen=True)
class Stored:
    """A tensor that is still on disk."""

    shape: tuple[int, ...]
    read: Callable[[], Tensor]


def regular_file(path: Path) -> Path:
    """The path. FileNotFoundError if nothing is there; ValueError if it is no file: a pipe or a device has no end."""
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: there is no whole model here")
    if not path.is_file():
        raise ValueError(f"{path}: must be a file")
    return path


def read_text(path: Path) -> str:
    """The text of a file. ValueError when it is no UTF-8, or too large to be a text that belongs to a model."""
    if regular_file(path).stat().st_size > MOST_TEXT:
        raise ValueError(f"{path}: larger than {MOST_TEXT >> 20} MiB")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as problem:
        raise ValueError(f"{path}: not UTF-8 text (at byte {problem.start})") from problem


def read_json(path: Path) -> dict:
    """The object in a JSON file. ValueError when it holds anything else."""
    return parse_json(read_text(path), path)


def parse_json(text: str, where: Path | str) -> dict:
    """The object in a JSON text, with finite numbers, whole characters and no name twice; else ValueError."""
    try:
        content = json.loads(text, parse_constant=_no_number, object_pairs_hook=without_doubles)
        if "\\u" in text:
            json.dumps(content, ensure_ascii=False).encode()  # fails for half of a surrogate pair
    except RecursionError as problem:
        raise ValueError(f"{where}: nested too deep") from problem
    except ValueError as problem:
        line = f":{problem.lineno}" if isinstance(problem, json.JSONDecodeError) else ""
        raise ValueError(f"{where}{line}: not JSON ({getattr(problem, 'msg', problem)!s:.100})") from problem
    if not isinstance(content, dict):
        raise ValueError(f"{where}: must be an object with keys, not {content!r:.60}")
    return content


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no finite number")


def without_doubles(pairs: list[tuple[str, object]]) -> dict:
    """An object of JSON from its keys and values; ValueError for a key that stands there twice."""
    content = {}
    for key, value in pairs:
        if key in content:
            raise ValueError(f"the key {key!r:.40} stands twice in one object")
        content[key] = value
    return content


def read_tensors(path: Path) -> dict[str, Stored]:
    """The tensors of a safetensors file by name, to be read one by one: so memory holds one at a time.

    FileNotFoundError or ValueError when the file is missing or damaged.
    """
    try:
        with safe_open(regular_file(path), "pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as problem:
        raise ValueError(f"{path}: damaged or cut short ({problem!s:.200})") from problem
    return {name: Stored(shape, partial(_read_tensor, path, name)) for name, shape in shapes.items()}


def _read_tensor(path: Path, name: str) -> Tensor:
    with safe_open(path, "pt") as file:  # opened for each tensor: an open file keeps all that was read in memory
        return file.get_tensor(name)


def file_hash(path: Path | str) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def errors_of(path: Path) -> Iterator[None]:
    """Whatever goes wrong in the block becomes a ValueError that names the path; what is missing stays missing."""
    try:
        yield
    except FileNotFoundError:
        raise
    except BaseException as problem:
        if not isinstance(problem, Exception) and type(problem).__name__ != "PanicException":  # a library's in Rust
            raise
        said = str(problem) if isinstance(problem, ValueError) else f"{type(problem).__name__}: {problem}"
        said = f"the key {problem} is missing" if isinstance(problem, KeyError) else said
        raise ValueError(said if said.startswith(str(path)) else f"{path}: {said:.500}") from problem
