"""Chapters of docs/book -> a site of plain pages: no script, no font and no picture from elsewhere."""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from minigpt.files.reading import read_json
from minigpt.files.writing import write_text, written_whole
from scripts.book import checking, drawn, examples, figures
from scripts.exercise import ROOT

CHAPTERS = ROOT / "docs/book"
BESIDE = ("lecture", "known_bugs", "results", "troubleshooting", "numpy_twin")  # pages of docs/ that chapters point to
STATIC = Path(__file__).parent / "static"
COLOURS = {"light": "xcode", "dark": "github-dark"}  # Pygments' names


class Page(NamedTuple):
    """A page: where its text is, its name without an ending, its title."""

    file: str
    name: str
    title: str
    text: str


class Drawn:
    """What the directives of one chapter have drawn in: what the page's end and the source pages need."""

    def __init__(self, page: Page, demo: Path | None, results: dict | None):
        self.page, self.demo, self.results = page, demo, results
        self.names: dict = {}  # of its examples
        self.codes: list[drawn.Code] = []
        self.files: set[str] = set()
        self.pictures: set[str] = set()


def read_pages(directory: Path = CHAPTERS) -> list[Page]:
    """The chapters, in the order of their names, index.md first."""
    paths = sorted(directory.glob("*.md"), key=lambda path: (path.stem != "index", path.stem))
    return [read_page(path, path.stem) for path in paths]


def read_page(path: Path, name: str) -> Page:
    """A page. ValueError when it doesn't begin with a title."""
    text = path.read_text(encoding="utf-8")
    file = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
    title = re.match(r"# (.+)\n", text)
    if title is None:
        raise ValueError(f"{file}:1: must begin with a title: # …")
    return Page(file, name, title[1].replace("`", ""), text)


def build(out: Path, demo: Path | None = None, directory: Path = CHAPTERS) -> list[Page]:
    """Build the site into a directory, whole or not at all; returns its pages.

    demo: whose pictures and figures it shows; None: the kept ones. ValueError that names the file and the line when
    something drawn in by name is gone, or an example fails; and one that lists links that are dead.
    """
    pages = read_pages(directory)
    beside = [read_page(ROOT / f"docs/{name}.md", name) for name in BESIDE]
    results = read_json(demo / "results.json") if demo else None
    templates = Environment(loader=FileSystemLoader(STATIC), autoescape=True, undefined=StrictUndefined)
    templates.trim_blocks = templates.lstrip_blocks = True

    def fill(page: Page, body: str, around: Sequence[list[Page]] = ([], []), root: str = "") -> str:
        return templates.get_template("page.html").render(
            page=page, body=body, before=around[0], after=around[1], pages=pages, beside=beside, root=root
        )

    with written_whole(out) as aside:
        aside.mkdir(parents=True)
        files, pictures = set(), set()
        for i, page in enumerate([*pages, *beside]):
            chapter = Drawn(page, demo, results)
            body = render(page, chapter, templates)
            around = (pages[max(i - 1, 0) : i], pages[i + 1 : i + 2]) if page in pages else ([], [])
            write_text(aside / f"{page.name}.html", fill(page, body, around))
            files |= chapter.files
            pictures |= chapter.pictures

        # what the pages point to
        for file in sorted(files):
            path = aside / source_page(file)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(
                path, fill(Page(file, file, file, ""), whole_file(file), root="../" * source_page(file).count("/"))
            )
        for name in sorted(pictures):
            with written_whole(aside / name) as picture:
                shutil.copy(ROOT / "docs" / name, picture)
        write_text(aside / "book.css", style())
        if wrong := checking.problems(aside):
            raise ValueError(f"the book has {len(wrong)} dead or foreign links: {'; '.join(wrong)}")
    return pages


def render(page: Page, chapter: Drawn, templates: Environment) -> str:
    """A page's text as HTML. ValueError that names the line whose directive can't be followed."""
    parts = templates.get_template("parts.html").module
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")

    def fence(tokens: Sequence, i: int, options: object, env: object) -> str:
        kind, _, argument = tokens[i].info.strip().partition(" ")
        try:
            return fenced(kind, argument.strip(), tokens[i].content, chapter, parts, markdown)
        except (ValueError, OSError) as problem:
            raise ValueError(f"{page.file}:{tokens[i].map[0] + 1}: {problem}") from problem

    def heading(tokens: Sequence, i: int, options: object, env: object) -> str:
        return f'<{tokens[i].tag} id="{slug(tokens[i + 1].content)}">'

    def link(tokens: Sequence, i: int, options: object, env: object) -> str:
        address = re.sub(r"(?:\.\./)?([\w./]+)\.md(#.*)?$", r"\1.html\2", tokens[i].attrs["href"])
        tokens[i].attrs["href"] = address
        return markdown.renderer.renderToken(tokens, i, options, env)

    markdown.renderer.rules |= {"fence": fence, "heading_open": heading, "link_open": link}
    markdown.renderer.rules["table_open"] = lambda *_: '<div class="scroll" tabindex="0"><table>'
    markdown.renderer.rules["table_close"] = lambda *_: "</table></div>"
    body = markdown.render(page.text)

    twins = [piece for piece in chapter.codes if piece.twin]
    chapter.files |= {piece.twin for piece in twins}
    places = [(piece, drawn.code(piece.twin, piece.name.split(".")[-1])) for piece in twins]
    return body + (str(parts.twins(places, source_page)) if places else "")


def slug(title: str) -> str:
    """The id of a heading.

    >>> slug("What usually goes wrong")
    'what-usually-goes-wrong'
    """
    return re.sub(r"\W+", "-", title.lower()).strip("-")


def fenced(kind: str, argument: str, content: str, chapter: Drawn, parts, markdown: MarkdownIt) -> str:
    """What a fenced block of a chapter becomes: a directive in braces, an example that is run, or text as it stands."""
    if kind in ("{code}", "{beside}"):
        pieces = drawn.codes(argument)
        chapter.codes += pieces
        chapter.files |= {piece.file for piece in pieces}
        shown = [(piece, source_page(piece.file), coloured(piece.text)) for piece in pieces]
        return parts.code(shown, kind == "{beside}")
    if kind == "{bugs}":
        found = [drawn.bug(line) for line in content.splitlines()]
        tests = [[place_of_test(test, chapter) for test in row.tests] for row in found]
        said = [MarkdownIt("commonmark").renderInline(row.bug) for row in found]
        return parts.bugs(list(zip(found, said, tests)))
    if kind == "{exercise}":
        piece = drawn.exercise(argument)
        chapter.files.add(piece.file)
        where = source_page(piece.file), drawn.code(piece.file, piece.name).first
        return parts.exercise(argument, piece, piece.rules, where)
    if kind == "{statements}":
        return parts.statements(drawn.statements(argument.split(), chapter.results), chapter.demo)
    if kind == "{question}":
        return parts.question(argument, MarkdownIt("commonmark").render(content))
    if kind == "{figure}" and argument.endswith(".png"):
        if not (ROOT / "docs" / argument).is_file():
            raise ValueError(f"docs/{argument} is not there")
        chapter.pictures.add(argument)
        return parts.figure("", argument, content.strip(), None)
    if kind == "{figure}":
        svg, own = figures.picture(argument, chapter.demo)
        return parts.figure(svg, "", content.strip(), chapter.demo if own else None)
    if kind.startswith("{"):
        raise ValueError(f"{kind} is not a directive")
    if kind == "python":
        printed = examples.run(content, chapter.names)
        return parts.example(coloured(content.rstrip()), printed)
    return parts.text(content)


def place_of_test(test: str, chapter: Drawn) -> tuple[str, str, int]:
    """A test "file::name": its name, its page and its line."""
    file, name = test.split("::")
    chapter.files.add(file)
    return name, source_page(file), drawn.code(file, name).first


def source_page(file: str) -> str:
    return f"source/{file}.html"


def whole_file(file: str) -> str:
    """A source file, each line with an id."""
    formatter = HtmlFormatter(linenos="inline", lineanchors="L", cssclass="code whole")
    lines = highlight(drawn.source(file), PythonLexer(), formatter).replace('id="L-', 'id="L')
    lines = lines.replace("<pre>", '<pre tabindex="0">')
    return f"<h1>{file}</h1>{lines}"


def coloured(code: str) -> str:
    return highlight(code, PythonLexer(), HtmlFormatter(nowrap=True)).rstrip("\n")


def style() -> str:
    """The style sheet: ours, and Pygments' colours for light and for dark."""
    colours = {name: HtmlFormatter(style=style).get_style_defs(".code") for name, style in COLOURS.items()}
    ours = (STATIC / "book.css").read_text(encoding="utf-8")
    return f"{colours['light']}\n@media (prefers-color-scheme: dark) {{\n{colours['dark']}\n}}\n{ours}"
