"""Make the notebook of the course from docs/notebook.py, for Jupyter and Colab.

python -m scripts.notebook --out runs/course.ipynb
"""

import re
from pathlib import Path

from scripts.support.command_line import Parser, file_name, run
from scripts.support.run_directory import write_json
from scripts.support.terminal import visible

SOURCE = Path(__file__).parent.parent / "docs/notebook.py"
MARK = re.compile(r"^# %%( \[markdown\])?$", re.M)
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def notebook(text: str) -> dict:
    """A script in percent format as a notebook: "# %%" begins a cell of code, "# %% [markdown]" one of comments.

    ValueError for text before the first mark, and for a line in a text cell that is no comment.

    >>> [cell["source"] for cell in notebook("# %% [markdown]\\n# # Title\\n\\n# %%\\n1 + 1\\n")["cells"]]
    ['# Title', '1 + 1']
    """
    before, *rest = MARK.split(text)
    if before.strip() or not rest:
        raise ValueError("docs/notebook.py: must begin with a cell: # %%")
    cells = []
    for number, (mark, body) in enumerate(zip(rest[::2], rest[1::2]), 1):
        cell = {"id": f"cell-{number}", "metadata": {}}
        if mark:
            cells.append({"cell_type": "markdown", **cell, "source": uncommented(body)})
        else:
            code = {"cell_type": "code", "execution_count": None, "outputs": []}
            cells.append({**code, **cell, "source": body.strip()})
    metadata = {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def uncommented(body: str) -> str:
    """The text of a cell of comments."""
    lines = body.strip().split("\n")
    for line in lines:
        if line.rstrip() != "#" and not line.startswith("# "):
            raise ValueError(f"docs/notebook.py: {line!r:.60} stands in a text cell and is no comment")
    return "\n".join(line[2:] for line in lines)


def executed(content: dict, seconds: int) -> dict:
    """The notebook with what its cells give. ValueError that names the cell when one fails or takes too long."""
    try:
        import nbformat
        from nbclient import NotebookClient
        from nbclient.exceptions import CellExecutionError, CellTimeoutError
    except ImportError as problem:
        raise ValueError(f"--run needs nbclient and ipykernel: pip install '.[course]' ({problem})") from None

    book = nbformat.from_dict(content)
    where = {"metadata": {"path": str(SOURCE.parent)}}
    quiet = ["--log-level=ERROR"]  # the kernel warns of its own connection, which stays on this machine
    client = NotebookClient(book, timeout=seconds, resources=where, extra_arguments=quiet)
    try:
        client.execute()
    except (CellExecutionError, CellTimeoutError) as problem:
        failed = max((cell for cell in book.cells if cell.cell_type == "code"), key=lambda c: c.execution_count or 0)
        said = str(problem).strip().splitlines()[-1]
        raise ValueError(f"the cell that begins {failed.source[:40]!r} failed: {said}") from None
    return book


def main() -> None:
    parser = Parser(__doc__, prog="scripts.notebook")
    parser.add_argument("--out", type=file_name, default=Path("runs/course.ipynb"), help="(default: %(default)s)")
    parser.add_argument("--run", action="store_true", help="run it too, and keep what its cells give")
    parser.add_argument("--seconds", type=int, default=600, help="with --run: the longest for a cell (%(default)s)")
    args = parser.parse_args()
    if args.out.suffix != ".ipynb":
        raise ValueError(f"{args.out}: must end in .ipynb")

    content = notebook(SOURCE.read_text(encoding="utf-8"))
    if args.run:
        content = executed(content, args.seconds)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(args.out, content)
    print(f"{visible(str(args.out))}: {len(content['cells'])} cells, for Jupyter or Colab, beside the project's folder")


if __name__ == "__main__":
    run(main)
