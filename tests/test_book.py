"""The book: what it draws in is there, its examples run, its links lead somewhere, and nothing comes from elsewhere."""

import re
from pathlib import Path

import pytest
from helpers import refuses

pytest.importorskip("markdown_it", reason="the book's packages are missing: pip install .[course]")
from scripts.book import checking, drawn, examples, figures, site

ROOT = Path(__file__).parent.parent
CHAPTERS = [path for path in sorted((ROOT / "docs/book").glob("*.md")) if path.stem != "index"]
PARTS = ["The idea", "The code", "A small example", "In the demo", "What usually goes wrong", "The exercise"]
PARTS += ["Three questions"]


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    out = tmp_path_factory.mktemp("book") / "book"
    site.build(out)
    return out


def one_page(directory: Path, text: str) -> Path:
    """A book of one page, built in a directory; returns that page."""
    (directory / "chapters").mkdir()
    (directory / "chapters/index.md").write_text(f"# A title\n\n{text}\n", encoding="utf-8")
    site.build(directory / "book", directory=directory / "chapters")
    return directory / "book/index.html"


def test_the_whole_book_is_built_and_has_no_dead_and_no_foreign_address(book):
    built = {path.stem for path in book.glob("*.html")}
    assert {"index", *(path.stem for path in CHAPTERS), *site.BESIDE} == built
    assert checking.problems(book) == []


def test_the_chapters_show_every_statement_in_the_lectures_order():
    texts = [path.read_text(encoding="utf-8") for path in CHAPTERS]
    groups = [re.search(r"^```\{statements\} (.+)$", text, re.M)[1].split() for text in texts]
    assert [number for group in groups[:-1] for number in group] == list(drawn.CLAIMS)
    assert groups[-1] == ["P2", "P3"]  # the same model once more, by hand


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_each_chapter_has_every_part(path):
    text = path.read_text(encoding="utf-8")
    sections = dict(zip(re.findall(r"^## (.+)$", text, re.M), re.split(r"^## .+$", text, flags=re.M)[1:]))
    assert list(sections) == PARTS
    assert re.search(r"^```\{statements\} ", text, re.M)
    assert re.search(r"^```\{(code|beside)\} ", sections["The code"], re.M)
    assert re.search(r"^```python$", sections["A small example"], re.M)
    assert re.search(r"^```\{bugs\}$", sections["What usually goes wrong"], re.M)
    assert re.search(r"^```\{exercise\} ", sections["The exercise"], re.M)
    assert len(re.findall(r"^```\{question\} .+\?$", sections["Three questions"], re.M)) == 3


def test_code_is_shown_as_it_stands_with_its_file_and_line_and_its_twin(tmp_path):
    page = one_page(tmp_path, "```{code} minigpt/formulas.py: softmax, dropout\n```").read_text("utf-8")
    lines = (ROOT / "minigpt/formulas.py").read_text("utf-8").splitlines()
    line = next(i for i, text in enumerate(lines, 1) if text.startswith("def softmax"))
    assert f'href="source/minigpt/formulas.py.html#L{line}"' in page
    shown = re.sub(r"<[^>]+>", "", page)
    assert "exponentials / exponentials.sum(-1, keepdim=True)" in shown
    assert "has_twin" not in shown
    assert "softmax</code> in minigpt/fast/kernels.py" in page
    assert "dropout</code> in minigpt/fast" not in page


@pytest.mark.parametrize(
    "block, said",
    [
        ("```{code} minigpt/formulas.py: sofmax\n```", "minigpt/formulas.py: sofmax is not defined"),
        ("```{code} minigpt/formula.py: softmax\n```", "minigpt/formula.py is not there"),
        ("```{bugs}\nTop-p keeps\n```", "has 2 rows that begin 'Top-p keeps': must be one"),
        ("```{bugs}\nTop-q\n```", "has 0 rows that begin 'Top-q': must be one"),
        ("```{exercise} top_q\n```", "'top_q' is not an exercise: must be one of merge_pair"),
        ("```{statements} P9\n```", "'P9' is not a statement"),
        ("```{figure} losses\n```", "'losses' is not a picture of the demo"),
        ("```{figure} demos.png\n```", "docs/demos.png is not there"),
        ("```{cod} minigpt/formulas.py: softmax\n```", "{cod} is not a directive"),
        ("```python\nx = 1\n1 / 0\n```", "line 2 of the example: ZeroDivisionError"),
        ("```python\nx = (1\n```", "line 1 of the example: SyntaxError"),
    ],
)
def test_what_is_gone_or_fails_is_named_with_its_file_and_line_and_no_book_is_left(tmp_path, block, said):
    with pytest.raises(ValueError, match=re.escape(said)) as problem:
        one_page(tmp_path, block)
    assert re.match(r".*index\.md:3: ", str(problem.value))
    assert [path.name for path in tmp_path.iterdir()] == ["chapters"]


@pytest.mark.parametrize("link", ["nowhere.md", "index.md#nowhere", "#nowhere", "../nowhere.png"])
def test_a_dead_link_is_refused(tmp_path, link):
    with pytest.raises(ValueError, match=r"1 dead or foreign links: index.html: .*nowhere"):
        one_page(tmp_path, f"[a link]({link})")


def test_a_resource_from_elsewhere_is_found_and_a_link_to_elsewhere_is_none(tmp_path):
    (tmp_path / "a.css").write_text("@import url(//fonts.org/a.css); p { background: url('b.png') }")
    (tmp_path / "a.html").write_text(
        '<link href="a.css"><a href="https://a.org">a</a><img src="https://a.org/a.png"><style>@import "http://b.org";</style>'
        '<script src="gone.js"></script><svg><use xlink:href="#gone"/></svg><p style="background: url(http://c.org)">'
    )
    assert sorted(checking.problems(tmp_path)) == [
        "a.css: //fonts.org/a.css is loaded from elsewhere",
        "a.css: b.png leads nowhere",
        "a.html: #gone names no place there",
        "a.html: gone.js leads nowhere",
        "a.html: http://b.org is loaded from elsewhere",
        "a.html: http://c.org is loaded from elsewhere",
        "a.html: https://a.org/a.png is loaded from elsewhere",
    ]


def test_an_example_runs_as_the_plain_edition_is_written():
    code = "from plain_or_fast import Switch\nprint(Switch.fast)\n'<b>'"
    assert examples.run(code, {}) == "False\n'<b>'"


def test_a_demos_own_picture_and_figures_come_before_the_kept_ones(tmp_path):
    report = '<h2>T<small>P2 P3</small></h2><figure><svg id="mine"></svg></figure><h2>U<small>G5</small></h2>'
    (tmp_path / "report.html").write_text(report)
    assert figures.picture("loss", tmp_path) == ('<svg id="mine"></svg>', True)
    kept, own = figures.picture("beam", tmp_path)  # this report has none
    assert kept.startswith("<svg") and not own
    assert drawn.statements(["P1"], {"base": {"vocab_size": 12}})[0].figure == "12 tokens learnt"
    assert "tokens learnt" in drawn.statements(["P1"], None)[0].figure


def test_every_picture_that_is_taken_from_a_report_is_put_there_under_this_tag():
    report = (ROOT / "scripts/support/report.py").read_text("utf-8")
    for name, (tag, _) in figures.PICTURES.items():
        assert f'"{tag}"' in report, name
        assert (figures.KEPT / f"{name}.svg").is_file()


def test_a_users_files_are_not_replaced_by_a_book(tmp_path, monkeypatch, capsys):
    from scripts.book import __main__ as command

    (tmp_path / "mine.txt").write_text("mine")
    for out, said in ((tmp_path, "made by something else"), (tmp_path / "mine.txt", "is a file")):
        refuses(monkeypatch, capsys, said, command, f"--out={out}")
    refuses(monkeypatch, capsys, "holds no demo (report.html is missing)", command, f"--demo={tmp_path}")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
