"""What is wrong with a site: links that lead nowhere, and anything that would be fetched from elsewhere."""

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LINKS = {"a", "area"}  # what a reader may follow; every other address is fetched as soon as the page opens
ADDRESSES = {"href", "src", "xlink:href", "data", "poster", "action", "srcset"}
IN_STYLES = re.compile(r"url\(\s*['\"]?([^'\")]+)|@import\s+['\"]([^'\"]+)")


class Page(HTMLParser):
    """The ids of a page, the links on it, and the resources that it loads."""

    def __init__(self, text: str):
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.resources: list[str] = []
        self.inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.inside = tag
        for name, value in attrs:
            if name == "id":
                self.ids.add(value)
            elif name in ADDRESSES:
                (self.links if tag in LINKS else self.resources).append(value or "")
            elif name == "style":
                self.resources += addresses(value or "")

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "style":
            self.resources += addresses(data)


def addresses(style: str) -> list[str]:
    """What a style sheet loads.

    >>> addresses("@import 'a.css'; p { background: url(b.png) }")
    ['a.css', 'b.png']
    """
    return [one or other for one, other in IN_STYLES.findall(style)]


def problems(site: Path) -> list[str]:
    """One line for each dead link, missing resource and resource from elsewhere in a directory of pages."""
    site = site.resolve()
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    loaded = [(path, address) for path, page in pages.items() for address in page.resources]
    loaded += [(path, it) for path in sorted(site.rglob("*.css")) for it in addresses(path.read_text("utf-8"))]
    links = [(path, address) for path, page in pages.items() for address in page.links]

    wrong = [(path, address, "is loaded from elsewhere") for path, address in loaded if elsewhere(address)]
    for path, address in [*loaded, *links]:
        if not elsewhere(address) and (why := dead(path, address, pages)):
            wrong.append((path, address, why))
    return [f"{path.relative_to(site)}: {address} {why}" for path, address, why in wrong]


def elsewhere(address: str) -> bool:
    """Whether an address leaves the site; one that holds its own data doesn't.

    >>> [elsewhere(address) for address in ("a.html#b", "data:,", "//cdn/a.js", "https://a.b/c.css")]
    [False, False, True, True]
    """
    scheme, host = urlsplit(address)[:2]
    return bool(host) or scheme not in ("", "data")


def dead(path: Path, address: str, pages: dict[Path, Page]) -> str:
    """Why a page's address within the site is dead, "" if it isn't."""
    parts = urlsplit(address)
    if parts.scheme == "data":
        return ""
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if not target.is_file():
        return "leads nowhere"
    if parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].ids:
        return "names no place there"
    return ""
