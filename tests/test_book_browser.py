"""The book in a real browser: no page is wider than its window, every text can be read, in light and in dark."""

import pytest
import test_playground_browser as browser

pytest.importorskip("markdown_it", reason="the book's packages are missing: pip install .[course]")
from scripts.book import site

pytestmark = pytest.mark.slow
chromium = browser.chromium  # the fixture


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    out = tmp_path_factory.mktemp("book") / "book"
    site.build(out)
    return out


WINDOWS = pytest.mark.parametrize("width, scheme", [(1280, "light"), (1920, "dark"), (390, "dark")])


@WINDOWS
def test_no_page_is_wider_than_its_window_or_asks_anybody(book, chromium, width, scheme):
    page = chromium.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    asked, wide = set(), []
    page.on("request", lambda request: asked.add(request.url.split(":")[0]))
    for path in [*sorted(book.glob("*.html")), book / "source/minigpt/numpy_gpt.py.html"]:
        page.goto(path.as_uri())
        if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
            wide.append(path.name)
    page.close()
    assert wide == []
    assert asked <= {"file", "data"}


@WINDOWS
def test_a_page_of_each_kind_can_be_read_by_everyone(book, chromium, width, scheme):
    page = chromium.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    wrong = []
    for name in ("index", "06_greedy_and_beam", "lecture", "source/minigpt/fast/kernels.py"):
        page.goto((book / f"{name}.html").as_uri())
        found = browser.Axe().run(page, options={"runOnly": ["wcag2a", "wcag2aa"]}).response["violations"]
        wrong += [f"{name}: {one['id']}: {one['nodes'][0]['html'][:200]}" for one in found]
    page.close()
    assert wrong == []


def test_on_a_telephone_whatever_is_wider_scrolls_in_its_own_box_and_a_shadow_says_so(book, chromium):
    page = chromium.new_page(viewport={"width": 390, "height": 900})
    wider, lost, bare = 0, [], []
    for path in [*sorted(book.glob("*.html")), book / "source/minigpt/numpy_gpt.py.html"]:
        page.goto(path.as_uri())
        for box in page.evaluate(BOXES):
            wider += 1
            lost += [f"{path.name}: {box['what']}"] if not box["scrolls"] else []
            bare += [f"{path.name}: {box['what']}"] if not box["shadow"] else []
    page.close()
    assert wider > 50 and lost == [] and bare == []


BOXES = """[...document.querySelectorAll("main :not(svg *)")]
    .filter(box => box.clientWidth && box.scrollWidth > box.clientWidth + 1)
    .map(box => ({
        what: box.outerHTML.slice(0, 99),
        scrolls: (box.scrollLeft = 1e6) && box.scrollLeft >= box.scrollWidth - box.clientWidth - 1,
        shadow: getComputedStyle(box).backgroundImage.includes("gradient"),
    }))"""


def test_a_code_pane_scrolls_inside_and_a_link_opens_the_file_at_its_line(book, chromium):
    page = chromium.new_page(viewport={"width": 390, "height": 900})
    page.goto((book / "02_model.html").as_uri())
    pane = page.locator("figure.piece pre").first
    assert pane.evaluate("pane => pane.scrollWidth > pane.clientWidth")
    page.locator("figure.piece figcaption a").first.click()
    page.wait_for_url("**/source/minigpt/model.py.html#L*")
    assert "def forward" in page.locator(":target").evaluate("line => line.parentElement.textContent")
    assert page.locator(":target").evaluate("line => line.getBoundingClientRect().top < innerHeight")
    page.close()
