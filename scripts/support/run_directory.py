"""Run directories: one command at a time writes into one, nothing is written over unasked, JSON is read and written."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

# What pretraining and fine-tuning write. Any of it in a directory is somebody's work.
RUN_FILES = (
    "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "generation_config.json",
    "made_from.json", "train.npy", "val.npy", "log.jsonl", "loss.png", "results.json", "tensorboard",
)  # fmt: skip


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Make the directory; inside the block no other command writes into it. ValueError when one does already.

    The operating system ends a lock with its process, however that ends. A directory that stays empty is removed.
    """
    from filelock import FileLock, Timeout  # here: --help can do without it; torch brings it along

    made = [path for path in (directory, *directory.parents) if not path.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    lock = FileLock(directory / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(
            f"{directory}: another run writes here now; wait for its end or choose another OUT=…"
        ) from None
    try:
        yield
    finally:
        with suppress(OSError):  # Windows removes no open file
            (directory / ".lock").unlink()
        lock.release()
        for path in made:
            with suppress(OSError):
                path.rmdir()


def refuse_existing(directory: Path, overwrite: bool) -> None:
    """ValueError if the directory already holds a model or another file of a run, unless it may be overwritten."""
    found = [name for name in RUN_FILES if os.path.lexists(directory / name)]
    if found and not overwrite:
        what = "a model" if found[0] == "config.json" else found[0]
        raise ValueError(f"{directory}: holds {what} already; choose another OUT=… or add OVERWRITE=1")


def refuse_foreign(directory: Path, made: Sequence[str], mark: str) -> None:
    """ValueError if the directory holds what a command would write anew and none of its own work.

    made: what the command writes. mark: what it writes first, so that its own work is known by it. A kill before that
    leaves bare directories at most, which are nobody's work.
    """
    found = [name for name in made if os.path.lexists(directory / name) and not is_bare(directory / name)]
    if found and not (directory / mark).exists():
        raise ValueError(f"{directory / found[0]}: is there already, made by something else; choose another OUT=…")


def is_bare(path: Path) -> bool:
    """Whether it is a directory without a file, but for hidden ones: what is being written has such a name."""
    return path.is_dir() and all(each.is_dir() or each.name.startswith(".") for each in path.rglob("*"))


def refuse_other_results(directory: Path, key: str) -> None:
    """ValueError if the directory's results.json lacks the key that a command's own results have: it is another's."""
    from minigpt.files.reading import read_json

    path = directory / "results.json"
    if os.path.lexists(path) and not (path.is_file() and key in read_json(path)):
        raise ValueError(f"{path}: is there already, made by something else; choose another OUT=…")


def save_anew(directory: Path, model, tok) -> None:
    """Write a model where an older one may be: a kill leaves one of them or none, never a mixture of the two.

    A full disk leaves the older one: all that needs room is written aside.
    """
    from minigpt.files import directory as model_files
    from minigpt.files.writing import remove

    aside = directory / ".anew"
    remove(aside)
    try:
        model_files.save(aside, model, tok)

        # without its config.json, what is here is no model: it goes first and comes last
        for name in ("config.json", "chat_template.jinja", *model_files.OLDER):
            remove(directory / name)
        for file in sorted(aside.iterdir(), key=lambda file: file.name == "config.json"):
            os.replace(file, directory / file.name)
    finally:
        remove(aside)


def write_json(path: Path, content: object) -> None:
    """Write a value as indented JSON, whole or not at all."""
    from minigpt.files import writing  # here: it loads torch, which --help can do without

    writing.write_json(path, content)


def read_rows(path: Path, *keys: str) -> list[dict]:
    """The objects in a .jsonl file, one per line. ValueError names the line that isn't one, or that lacks a key."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as problem:
        raise ValueError(f"{path}: not UTF-8 text (at byte {problem.start})") from problem
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as problem:
            raise ValueError(f"{path}:{number}: not JSON ({problem})") from problem
        missing = [key for key in keys if not (isinstance(row, dict) and isinstance(row.get(key), str | bool))]
        if missing or not isinstance(row, dict):
            raise ValueError(f"{path}:{number}: must be an object with {', '.join(missing or ['keys'])}")
        rows.append(row)
    if not rows:
        raise ValueError(f"{path}: holds no row")
    return rows
