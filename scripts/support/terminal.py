"""What the commands print on a terminal: tables, colours, progress bars."""

import html
import os
import sys
from collections.abc import Iterable, Iterator, Sequence

ENDS_AT_ONCE = "(ends at once)"  # what an answer without any text looks like
GREY, BOLD, RESET = "\033[90m", "\033[1m", "\033[0m"

# Characters that make a terminal do something, or turn a line around, and what is shown in their place.
COMMANDS = [*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
PICTURES = {code: chr(0x2400 + code) if code < 0x20 else f"‹{code:X}›" for code in COMMANDS if chr(code) not in "\t\n"}
PICTURES |= {0xDC00 + byte: f"‹{byte:X}›" for byte in range(0x80, 0x100)}  # a byte that is no text: half a character


def visible(text: str) -> str:
    """A text of a model, a file or a user as it may be sent to a terminal: it can show things there, not do them.

    >>> visible("\\033[2J wiped?")
    '␛[2J wiped?'
    """
    return text.translate(PICTURES)


def escaped(text: str) -> str:
    """The same for HTML and SVG: nothing in the text is markup, and nothing turns the page's own words around.

    >>> escaped("<b>\\u202e")
    '&lt;b&gt;‹202E›'
    """
    return html.escape(visible(text))


def piece_of(tok, token_id: int) -> str:
    """The text of one token; a byte that is only a part of a character is shown as ‹F0›."""
    return visible(tok.token_bytes(token_id).decode("utf-8", errors="surrogateescape"))


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows under a header in aligned columns: numbers to the right, long texts cut to the terminal's width."""
    # to text
    cells = [[f"{cell:.3f}" if isinstance(cell, float) else visible(str(cell)) for cell in row] for row in rows]

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
    """Pass a training run's Steps on, with a progress bar: loss and perplexity, tokens per second, time left."""
    from tqdm import tqdm

    from scripts.support.measuring.text_loss import told

    with tqdm(total=total, initial=done, desc=what, unit="step", disable=None, leave=False) as bar:
        for step in steps:
            bar.set_postfix(loss=told(step.loss), tokens_s=f"{step.tokens / step.seconds:,.0f}", refresh=False)
            bar.update()
            yield step


def show_each(items: Iterable, what: str) -> Iterator:
    """Pass items on, with a progress bar that counts them."""
    from tqdm import tqdm

    yield from tqdm(items, desc=what, disable=None, leave=False)


def show_reading(pieces: Iterable, name: str) -> Iterator:
    """Pass the pieces of a corpus on, with a progress bar that counts their characters."""
    from tqdm import tqdm

    with tqdm(desc=name, unit="chars", unit_scale=True, disable=None, leave=False) as bar:
        for piece in pieces:
            yield piece
            bar.update(len(piece.text))
