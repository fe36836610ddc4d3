"""The notebook: made from one script, valid, in the lecture's order; its whole road runs on a small world."""

import ast
import json
import re

import pytest
from helpers import call, refuses

from scripts import notebook
from scripts.lab.claims import CLAIMS

TEXT = notebook.SOURCE.read_text(encoding="utf-8")


def test_the_notebook_holds_all_of_the_script_and_nothing_else():
    script = ""
    for cell in notebook.notebook(TEXT)["cells"]:
        if cell["cell_type"] == "code":
            script += f"# %%\n{cell['source']}\n\n"
        else:
            script += "# %% [markdown]\n" + re.sub("^", "# ", cell["source"], flags=re.M) + "\n\n"
    script = re.sub(r"^# $", "#", script, flags=re.M)
    assert without_spare_lines(script) == without_spare_lines(TEXT)


def without_spare_lines(text: str) -> str:
    return re.sub(r"\n{2,}", "\n\n", text).strip()


def test_it_shows_every_statement_in_the_lectures_order_and_installs_first():
    cells = notebook.notebook(TEXT)["cells"]
    titles = [line for cell in cells for line in cell["source"].splitlines() if line.startswith("## ")]
    assert [number for title in titles for number in re.findall(r"\b[PGS]\d+\b", title)] == list(CLAIMS)
    first = next(cell["source"] for cell in cells if cell["cell_type"] == "code")
    assert '"pip", "install"' in first and "://" not in TEXT
    modules = {node.module for node in ast.walk(ast.parse(TEXT)) if isinstance(node, ast.ImportFrom)}
    assert {"minigpt", "decoding", "sft"} <= modules


@pytest.mark.parametrize(
    "text, said", [("x = 1\n# %%\n", "must begin with a cell"), ("# %% [markdown]\nx = 1\n", "x = 1")]
)
def test_a_script_that_is_no_notebook_is_refused(text, said):
    with pytest.raises(ValueError, match=said):
        notebook.notebook(text)


def test_the_command_writes_a_valid_notebook_that_has_not_been_run(tmp_path, monkeypatch, capsys):
    nbformat = pytest.importorskip("nbformat", reason="the course's packages are missing: pip install .[course]")
    assert call(monkeypatch, notebook, f"--out={tmp_path / 'a/course.ipynb'}") == 0
    written = json.loads((tmp_path / "a/course.ipynb").read_text("utf-8"))
    nbformat.validate(written)
    assert all(cell["outputs"] == [] for cell in written["cells"] if cell["cell_type"] == "code")
    refuses(monkeypatch, capsys, "must end in .ipynb", notebook, f"--out={tmp_path / 'mine.txt'}")


def test_a_cell_that_fails_is_named_and_nothing_is_written(tmp_path, monkeypatch, capsys):
    pytest.importorskip("nbclient", reason="the course's packages are missing: pip install .[course]")
    (tmp_path / "failing.py").write_text("# %%\nx = 1\n\n# %%\n1 / 0\n\n# %%\ny = 2\n")
    monkeypatch.setattr(notebook, "SOURCE", tmp_path / "failing.py")
    out = tmp_path / "course.ipynb"
    refuses(monkeypatch, capsys, "the cell that begins '1 / 0' failed", notebook, f"--out={out}", "--run")
    assert not out.exists()


@pytest.mark.slow
def test_the_whole_road_runs_and_ends_in_a_model_that_answers(tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat", reason="the course's packages are missing: pip install .[course]")
    assert call(monkeypatch, notebook, f"--out={tmp_path / 'course.ipynb'}", "--run") == 0
    written = json.loads((tmp_path / "course.ipynb").read_text("utf-8"))
    nbformat.validate(written)
    cells = [cell for cell in written["cells"] if cell["cell_type"] == "code"]
    outputs = [output for cell in cells for output in cell["outputs"]]
    said = "".join("".join(output.get("text", "")) for output in outputs)

    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert any("image/png" in output.get("data", {}) for output in outputs)
    [known], [before], [after] = (
        re.findall(words, said) for words in (r"(\d+)% of 160 facts", r"before: (\d+)%", r"after: (\d+)%")
    )
    assert int(known) > 80 and int(before) < 5 and int(after) > 40
