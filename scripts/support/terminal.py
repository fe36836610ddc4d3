"""What the commands print on a terminal: tables, colours, progress bars."""

import os
import sys
from collections.abc import Iterable, Iterator, Sequence

GREY, BOLD, RESET = "\033[90m", "\033[1m", "\033[0m"


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows under a header in aligned columns: numbers to the right, long texts cut to the terminal's width."""
    # to text
    cells = [[f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]

    # how wide is each column, and what room is left for the last one?
    widths = [max(len(row[i]) for row in [list(header), *cells]) for i in range(len(header))]
    room = max(20, terminal_width() - sum(widths[:-1]) - 2 * len(widths))

    # print
    for number, row in enumerate([list(header), *cells]):
        aligned = [
            cell.rjust(width) if rows and isinstance(rows[0][i], int | float) else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths))
        ]
        last = aligned[-1].rstrip()
        aligned[-1] = last if len(last) <= room else last[: room - 1] + "…"
        line = "  ".join(aligned)
        print(f"  {BOLD}{line}{RESET}" if number == 0 and sys.stdout.isatty() else f"  {line}")


def note(text: str) -> str:
    """The text in grey."""
    return f"{GREY}{text}{RESET}"


def terminal_width() -> int:
    try:
        return os.get_terminal_size().columns
    except OSError:
        return 140


def show_progress(steps: Iterable, total: int, what: str, done: int = 0) -> Iterator:
    """Pass a training run's Steps on, with a progress bar: loss, tokens per second, time left."""
    from tqdm import tqdm

    with tqdm(total=total, initial=done, desc=what, unit="step", disable=None, leave=False) as bar:
        for step in steps:
            bar.set_postfix(loss=f"{step.loss:.3f}", tokens_s=f"{step.tokens / step.seconds:,.0f}", refresh=False)
            bar.update()
            yield step


def show_reading(pieces: Iterable, name: str) -> Iterator:
    """Pass the pieces of a corpus on, with a progress bar that counts their characters."""
    from tqdm import tqdm

    with tqdm(desc=name, unit="chars", unit_scale=True, disable=None, leave=False) as bar:
        for piece in pieces:
            yield piece
            bar.update(len(piece.text))
