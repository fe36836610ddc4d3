"""Run directories: none is overwritten unasked, and a JSON file is written whole or not at all."""

from pathlib import Path


def refuse_existing(directory: Path, overwrite: bool) -> None:
    """ValueError if the directory already holds a model, unless it may be overwritten."""
    if (directory / "config.json").exists() and not overwrite:
        raise ValueError(f"{directory}: holds a model already; choose another OUT=… or add OVERWRITE=1")


def write_json(path: Path, content: object) -> None:
    """Write a value as indented JSON, whole or not at all."""
    from minigpt.files import writing  # here: it loads torch, which --help can do without

    writing.write_json(path, content)
