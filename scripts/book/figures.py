"""The demo's pictures: out of a demo's report, or, without one, out of docs/book/pictures, where one's are kept."""

import re
from pathlib import Path

from minigpt.files.writing import write_text
from scripts.exercise import ROOT

KEPT = ROOT / "docs/book/pictures"
PICTURES = {  # where each stands in a report: the section's tag, and which of its figures it is
    "loss": ("P2 P3", 0),
    "bars": ("G1 G7 G8 G9", 0),
    "kept": ("G1 G7 G8 G9", 1),
    "beam": ("G5", 0),
    "sft_loss": ("S2 to S6", 0),
}


def picture(name: str, demo: Path | None) -> tuple[str, bool]:
    """A picture as an <svg> element, and whether it is the demo's own. ValueError for a name that there isn't."""
    if name not in PICTURES:
        raise ValueError(f"{name!r} is not a picture of the demo: must be one of {', '.join(PICTURES)}")
    own = out_of(demo / "report.html", name) if demo else None
    svg = own or (KEPT / f"{name}.svg").read_text(encoding="utf-8")
    return svg.replace(' role="img"', ""), own is not None  # the page names it


def out_of(report: Path, name: str) -> str | None:
    """A picture out of a report, None when it has no such section or figure."""
    tag, place = PICTURES[name]
    for section in report.read_text(encoding="utf-8").split("<h2>")[1:]:
        found = re.findall(r"<figure>(<svg.*?</svg>)", section, re.S)
        if f"<small>{tag}</small>" in section and len(found) > place:
            return found[place]
    return None


def keep(demo: Path) -> None:
    """Put a demo's pictures into docs/book/pictures. ValueError when its report lacks one."""
    for name in PICTURES:
        found = out_of(demo / "report.html", name)
        if found is None:
            raise ValueError(f"{demo / 'report.html'}: has no picture {name!r}")
        write_text(KEPT / f"{name}.svg", smaller(found) + "\n")


def smaller(svg: str) -> str:
    """A picture without what no eye sees: who made it when, and the digits of its places beyond the second.

    >>> smaller('<svg><metadata>today</metadata><path d="M 1.23456 7"/><text>0.00123</text></svg>')
    '<svg><path d="M 1.23 7"/><text>0.00123</text></svg>'
    """
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg, flags=re.S)
    return re.sub(r"<[^>]+>", lambda tag: re.sub(r"(\d+\.\d\d)\d+", r"\1", tag[0]), svg)
