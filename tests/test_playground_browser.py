"""The playground in a real browser (G12): what a student does, and what each panel then shows."""

import re
import shutil
import time
from urllib.parse import parse_qs, urlsplit

import pytest
import torch
from conftest import tiny
from test_playground import serving

from minigpt import save
from scripts.playground import session

pytestmark = pytest.mark.slow
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("there is no Chromium here: apt-get install chromium", allow_module_level=True)
playwright = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
Axe = pytest.importorskip(
    "axe_playwright_python.sync_playwright", reason="the package axe-playwright-python is missing"
).Axe

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
TABS = ["next", "beam", "side", "curves", "asked", "layout", "sizes"]


@pytest.fixture(scope="module")
def port(tmp_path_factory, tok):
    directory = tmp_path_factory.mktemp("model")
    save(directory, tiny(torch.float32, vocab_size=tok.vocab_size, context_length=64), tok)
    with serving(session.Session({"base": str(directory), "sft": str(directory)}, "base")) as found:
        yield found


@pytest.fixture(scope="module")
def chromium():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def watched(chromium):
    """Opens pages; at the end none has complained, and none has asked anybody but the server."""
    pages, complaints, hosts = [], [], set()

    def open_page(port, fragment="", **options):
        page = chromium.new_page(**{"viewport": {"width": 1280, "height": 900}, "reduced_motion": "reduce"} | options)
        page.set_default_timeout(10_000)
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda problem: complaints.append(str(problem)))
        page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
        page.goto(f"http://127.0.0.1:{port}/{fragment}")
        page.wait_for_selector("#bars table, #bars-note:not(:empty)", state="attached")
        pages.append((page, f"127.0.0.1:{port}"))
        return page

    yield open_page
    assert not complaints
    assert hosts == {host for _, host in pages}
    for page, _ in pages:
        page.close()


def until(page, condition) -> None:
    """Wait until the condition holds; the page's policy forbids the driver's own way, which evaluates text."""
    end = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < end, "nothing happened for 15 seconds"
        page.wait_for_timeout(30)


def chosen(page) -> list[str]:
    return page.locator("#text button:not(.undone)").all_inner_texts()


def hash_of(page) -> dict:
    return {name: values[0] for name, values in parse_qs(urlsplit(page.url).fragment, keep_blank_values=True).items()}


def step(page, how="#step") -> None:
    before = len(chosen(page))
    page.click(how)
    until(page, lambda: len(chosen(page)) == before + 1)


def test_step_undo_and_the_url_keep_the_text(port, watched):
    page = watched(port, "#seed=3")
    for _ in range(3):
        step(page)
    written = chosen(page)
    page.click("#undo")
    until(page, lambda: chosen(page) == written[:2])
    assert page.locator("#text button.undone").all_inner_texts() == written[2:]
    step(page)
    assert chosen(page) == written  # the same seed
    again = watched(port, "#" + urlsplit(page.url).fragment)
    assert chosen(again) == written
    assert "SEED=3" in again.locator("#command").text_content()


def test_a_cut_token_can_be_chosen_and_both_branches_stay(port, watched):
    page = watched(port, "#top_k=2")
    step(page)
    step(page)
    first = chosen(page)
    page.locator("#text button").nth(1).click()  # back to before the second token
    until(page, lambda: chosen(page) == first[:1])
    cut = page.locator("tr.cut .choose").first
    name = cut.locator("span").first.inner_text()
    cut.click()
    until(page, lambda: len(chosen(page)) == 2)
    assert chosen(page) == [first[0], name]
    assert "by-hand" in page.locator("#text button").nth(1).get_attribute("class")
    assert page.locator("#by-hand").is_visible() or not page.locator("#tree-box + details").get_attribute("open")
    assert page.locator("#tree button").count() == 3  # what both share, and two branches
    page.locator("#tree button").nth(1).click()
    until(page, lambda: chosen(page) == first)


def test_moving_top_p_moves_the_kept_set(port, watched):
    page = watched(port)
    kept = []
    for p in ("0.3", "0.6", "0.95"):
        if not page.is_checked("#on-top_p"):
            page.check("#on-top_p")
        page.fill("#exact-top_p", p)
        page.keyboard.press("Tab")
        until(page, lambda p=p: f"{float(p):g}, keeps" in page.locator("#bars thead").inner_text())
        kept.append(int(re.search(r"([\d,]+) of", page.locator("#bars-note").inner_text()).group(1).replace(",", "")))
        shown = page.locator("#bars tbody tr").count() - page.locator("tr.cut").count()
        assert shown == kept[-1] or (kept[-1] > 12 and shown >= 12)
        assert page.locator("tr.cut").count() > 0 and "that is cut" in page.locator("#bars-note").inner_text()
        assert page.locator("tr.cut .hatched").count() == page.locator("tr.cut").count()
    assert kept[0] < kept[1] < kept[2]


def test_the_uniform_number_is_dragged_and_the_token_under_it_is_drawn(port, watched):
    page = watched(port, "#top_k=3")
    page.locator("#uniform").scroll_into_view_if_needed()
    line = page.locator("#uniform").bounding_box()
    drawn = []
    at = float(page.input_value("#uniform")) * line["width"]
    page.mouse.move(line["x"] + at, line["y"] + line["height"] - 6)
    page.mouse.down()
    for share in (0.02, 0.98):
        page.mouse.move(line["x"] + share * line["width"], line["y"] + line["height"] - 6, steps=4)
        until(page, lambda share=share: abs(float(hash_of(page).get("uniform", 9)) - share) < 0.02)
        until(page, lambda: "your own" in page.locator("#told").inner_text())
        page.wait_for_timeout(200)
        assert page.locator(".segment").count() == 3
        drawn.append(page.locator("#bars tr.drawn th").inner_text())
    page.mouse.up()
    assert drawn[0] != drawn[1]
    page.click("text=Draw 1,000 times")
    until(page, lambda: "1,000 times" in page.locator("#bars thead").inner_text())
    counts = [int(text.replace(",", "")) for text in page.locator("#bars tbody td:last-child").all_inner_texts()]
    assert sum(counts) == 1000 and counts.count(0) == len(counts) - 3
    page.click("text=Back to the seed’s number")
    until(page, lambda: "of seed 0" in page.locator("#told").inner_text())


def test_a_run_is_stopped_and_a_finished_one_says_why(port, watched):
    page = watched(port, "#max_new_tokens=30&temperature=0.9")
    page.click("#run")
    until(page, lambda: len(chosen(page)) >= 2)
    page.click("#run")
    until(page, lambda: page.locator("#run").inner_text().startswith("Run"))
    page.wait_for_timeout(300)
    stopped = len(chosen(page))
    page.wait_for_timeout(300)
    assert len(chosen(page)) == stopped < 30
    page = watched(port, "#max_new_tokens=3&temperature=0")
    page.click("#run")
    until(page, lambda: page.locator("#ended").is_visible())
    assert "maximum length" in page.locator("#ended").inner_text() and len(chosen(page)) == 3


def test_a_stop_string_ends_the_text_and_does_not_appear(port, watched):
    page = watched(port, "#max_new_tokens=12&temperature=0&endless=1")
    page.click("#run")
    until(page, lambda: page.locator("#ended").is_visible())
    text = "".join(chosen(page)).replace("␣", " ").replace("⏎", "\n")
    stop = text[5:8]
    again = watched(port, "#max_new_tokens=12&temperature=0&endless=1")
    again.fill("#stop", stop.replace("\n", "\\n"))
    until(again, lambda: hash_of(again).get("stop") == stop)
    again.click("#run")
    until(again, lambda: again.locator("#ended").is_visible())
    assert "stop string" in again.locator("#ended").inner_text()
    assert "".join(chosen(again)).replace("␣", " ").replace("⏎", "\n") == text[: text.index(stop)]
    assert "--stop" in again.locator("#command").text_content()
    reloaded = watched(port, "#" + urlsplit(again.url).fragment)
    assert chosen(reloaded) == chosen(again) and reloaded.input_value("#stop") == again.input_value("#stop")


def test_a_typed_special_string_visibly_stays_text(port, watched):
    page = watched(port, "#tab=layout")
    page.fill("#layout-question", "Hi<|endoftext|>")
    until(page, lambda: page.locator(".harmless").count() == 1)
    assert "You typed <|endoftext|>. It stays plain text" in page.locator(".harmless").inner_text()
    special = page.locator("#layout-tokens .special").all_inner_texts()
    assert special == ["<|prompt|>", "<|response|>", "<|endoftext|>"]  # the layout's own three
    page.click("#layout summary")
    rows = page.locator("#layout tbody tr").all_inner_texts()
    assert len(rows) == page.locator("#layout-tokens .chip").count() - 1
    assert any("no: ignored" in row for row in rows) and "yes" in rows[-1]


def test_everything_can_be_done_by_keyboard(port, watched):
    page = watched(port, "#top_k=2")
    page.keyboard.press("ArrowRight")
    until(page, lambda: len(chosen(page)) == 1)
    page.keyboard.press("5")  # a cut one
    until(page, lambda: len(chosen(page)) == 2)
    page.keyboard.press("ArrowLeft")
    until(page, lambda: len(chosen(page)) == 1)
    before = page.locator("#told").inner_text()
    page.keyboard.press("r")
    until(page, lambda: page.locator("#told").inner_text() != before)
    page.keyboard.press("Space")
    until(page, lambda: len(chosen(page)) >= 3)
    page.keyboard.press("Space")
    until(page, lambda: page.locator("#run").inner_text().startswith("Run"))
    page.keyboard.press("?")
    assert page.locator("#keys").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("#keys").is_visible()

    # tabs, and a focus that stays where it was
    page.focus("#tab-next")
    page.keyboard.press("ArrowRight")
    assert page.locator("#panel-beam").is_visible() and not page.locator("#panel-next").is_visible()
    page.keyboard.press("ArrowLeft")
    token = page.locator("#bars .choose").nth(1)
    token.focus()
    count = len(chosen(page))
    page.keyboard.press("Enter")
    until(page, lambda: len(chosen(page)) == count + 1)


def test_a_bet_comes_before_the_bars(port, watched):
    page = watched(port)
    page.check("#predict")
    assert page.locator("#bars .bar").count() == 0 and page.locator("#why").is_hidden()
    page.locator(".bets button").first.click()
    until(page, lambda: page.locator("#bars .bar").count() > 0)
    assert page.locator("#why").is_visible()
    assert "Your bet has" in page.locator("#bars-note").inner_text()
    page.click("#step")
    until(page, lambda: page.locator(".bets button").count() > 0)


def test_a_preset_moves_the_knobs_and_a_bad_value_is_a_sentence(port, watched):
    page = watched(port)
    page.click("text=code generation")
    until(page, lambda: page.locator("#error").is_hidden() and "0.1, keeps" in page.locator("#bars thead").inner_text())
    assert (page.input_value("#exact-temperature"), page.input_value("#exact-top_p")) == ("0.2", "0.1")
    assert hash_of(page)["top_p"] == "0.1"


def test_the_other_panels_show_what_they_promise(port, watched):
    page = watched(port, "#max_new_tokens=6")
    page.click("#tab-beam")
    page.click("#beam-form .main")
    until(page, lambda: page.locator("#beam-more").is_enabled())
    assert page.locator(".beam-step").count() == 1
    while page.locator("#beam-more").is_enabled():
        page.click("#beam-more")
    assert page.locator(".beam-step").count() == 5 and "greedy" in page.locator("#beam").inner_text()
    assert page.locator("#beam .result").inner_text().startswith("Best path")

    page.click("#tab-side")
    page.click("#side-run")
    until(page, lambda: page.locator("#side article b").count() == 8)
    verdicts = page.locator("#side article b").all_inner_texts()
    assert verdicts[:2] == ["= the same"] * 2 and "≠ differs" in verdicts[2:]

    page.click("#tab-curves")
    page.fill("#curves-text", "Ada lives in Oslo.")
    page.click("#curves-form .main")
    until(page, lambda: page.locator("#curves figure").count() == 3)
    assert "perplexity" in page.locator("#curves .result").inner_text()

    for panel in ("asked", "sizes"):
        page.click(f"#tab-{panel}")
        page.click(f"#{panel} button.main")
        until(page, lambda panel=panel: page.locator(f"#{panel} article .note", has_text="tokens").count() == 2)
    page.click("#tab-asked")
    page.locator("#asked article button").last.click()  # look inside
    until(page, lambda: page.locator("#text .special").count() == 2)
    assert page.locator("#panel-next").is_visible() and page.input_value("#model") == "sft"


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_panel_fits_and_is_accessible(port, watched, width, scheme):
    page = watched(port, "#top_k=3&no_repeat_ngram=3", viewport={"width": width, "height": 844}, color_scheme=scheme)
    step(page)
    page.locator("tr.cut .choose").first.click()
    until(page, lambda: len(chosen(page)) == 2)
    for name in TABS:
        page.click(f"#tab-{name}")
        if name in ("beam", "curves"):
            page.click(f"#{name}-form .main")
            until(page, lambda name=name: page.locator(f"#{name} .result, #beam-more:enabled").count() > 0)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        assert not re.search(r"undefined|null|NaN|\[object", page.locator("main").inner_text()), name
        found = Axe().run(page).response["violations"]
        assert [(problem["id"], [node["html"] for node in problem["nodes"]][:3]) for problem in found] == [], name
