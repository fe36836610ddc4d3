"""Pictures of a run, from its data: loss curves, a distribution before and after each filter, a beam tree."""

import io
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from minigpt.files.reading import read_json
from minigpt.files.writing import written_whole
from scripts.support.run_directory import read_rows
from scripts.support.terminal import escaped, visible

INK, SOFT, GREY, BLUE, ORANGE, GREEN = "#222222", "#5f6670", "#b8b8b8", "#2f6db5", "#d9772b", "#3a8f5c"


def figure(width: float, height: float, rows: int = 1, columns: int = 1, **layout):
    """An empty matplotlib figure with plain axes, one or (rows, columns) of them; no display is needed."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams.update(
        {"font.size": 10, "svg.fonttype": "none", "font.family": "sans-serif", "text.parse_math": False}
    )
    fig = Figure(figsize=(width, height), layout="constrained")
    grid = fig.subplots(rows, columns, squeeze=False, **layout)
    for axes in grid.flat:
        axes.spines[["top", "right"]].set_visible(False)
    return fig, grid if grid.size > 1 or layout else grid[0, 0]


def loss_figure(log: Path, title: str, ln_vocab: float | None = None):
    """The training loss as a line, validation as dots, and ln V, where an untrained model stands."""
    rows = read_rows(log)
    steps, losses = [row["step"] for row in rows], [row["loss"] for row in rows]
    measured = [(row["step"], row["val_loss"]) for row in rows if "val_loss" in row]
    fig, axes = figure(9.6, 3.4)
    axes.plot(steps, losses, color=GREY, lw=0.8, label="training, each step")
    mean, smooth = losses[0], []
    for loss in losses:
        mean += (loss - mean) * 0.25
        smooth.append(mean)
    axes.plot(steps, smooth, color=BLUE, lw=1.6, label="training, smoothed")
    if measured:
        axes.plot(*zip(*measured), "o", color=ORANGE, ms=5, label="validation")
    if ln_vocab:
        axes.axhline(ln_vocab, color=INK, lw=0.8, ls=":", label=f"ln V = {ln_vocab:.2f}: knows nothing yet")
    axes.set(xlabel="step", ylabel="loss (nats per token)", title=title, ylim=(0, None))
    axes.legend(frameon=False, fontsize=9)

    # the same scale in perplexity
    ticks = [tick for tick in axes.get_yticks() if 0 <= tick <= axes.get_ylim()[1]]
    right = axes.secondary_yaxis("right")
    right.set_yticks(ticks, [f"{math.exp(tick):,.{0 if tick >= 2 else 1}f}" for tick in ticks])
    right.set_ylabel("perplexity")
    return fig


def curves_figure(curves: dict[str, list[float]]):
    """Training losses of several runs, thin over thick so that equal ones show."""
    fig, axes = figure(9.6, 3.4)
    for (name, losses), width, colour in zip(curves.items(), (5, 1.2, 1), (GREY, BLUE, ORANGE)):
        axes.plot(range(1, len(losses) + 1), losses, lw=width, color=colour, label=name)
    axes.set(xlabel="step", ylabel="loss (nats per token)", ylim=(0, None))
    axes.legend(frameon=False)
    return fig


def ratios_figure(rows: list[dict], title: str):
    """How many times as fast as its peer each piece of work is, as bars; the line at 1 is equal speed."""
    from matplotlib.ticker import LogLocator

    fig, axes = figure(9.6, 0.9 + 0.3 * len(rows))
    names, ratios = [f"{row['what']} / {row['peer_name']}" for row in rows], [row["ratio"] for row in rows]
    colours = [BLUE if ratio >= 1 else ORANGE for ratio in ratios]
    bars = axes.barh(names, [ratio - 1 for ratio in ratios], left=1, color=colours, height=0.7)
    axes.bar_label(bars, [f"{ratio:.2f}" for ratio in ratios], padding=3, fontsize=8)
    axes.invert_yaxis()
    axes.set(xscale="log", xlabel="times as fast", title=title)
    axes.xaxis.set_major_locator(LogLocator(subs=[1, 2, 3, 5]))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.margins(x=0.1)  # room for the figures beside the bars
    axes.tick_params(labelsize=8)
    return fig


def experiment_figure(experiment, series: dict[str, list[float]], before: float | None = None):
    """What one setting does: a line over many numbers, else bars; a last series of another unit has its own panel."""
    names, values = list(series), experiment.values
    panels = [names[: len(experiment.shares)], *([names[-1:]] if experiment.figure else [])]
    fig, grid = figure(9.6, 3.4, 1, len(panels), width_ratios=[2, 1][: len(panels)])
    for axes, drawn in zip(grid[0], panels):
        shares, width = drawn is panels[0], 0.8 / len(drawn)
        for i, (name, colour) in enumerate(zip(drawn, (BLUE, ORANGE, GREEN) if shares else (GREY,))):
            if len(values) > 4:
                axes.plot(values, series[name], "o-", color=colour, label=name)
                continue
            places = [place + (i - (len(drawn) - 1) / 2) * width for place in range(len(values))]
            bars = axes.bar(places, series[name], width * 0.92, color=colour, label=name)
            axes.bar_label(bars, fmt="%.2f", fontsize=8, padding=2)
        if len(values) > 4:
            axes.set_xscale("log")
            axes.minorticks_off()
        axes.set_xticks(values if len(values) > 4 else range(len(values)), [str(value) for value in values])
        axes.set(xlabel=experiment.setting, ylabel="share of the questions" if shares else drawn[0])
        if shares:
            axes.set_ylim(0, 1.08)
        elif before is not None:
            axes.axhline(before, color=INK, lw=0.8, ls=":")
            axes.set_title("dotted: before fine-tuning", fontsize=9, loc="right", color=INK)
    handles, labels = grid[0][0].get_legend_handles_labels()
    fig.legend(handles, labels, frameon=False, fontsize=9, loc="outside lower center", ncols=len(labels))
    fig.suptitle(experiment.question, fontsize=11)
    return fig


def save_loss_plot(directory: Path) -> None:
    """Draw the run's log.jsonl into loss.png, when matplotlib is there."""
    try:
        config = read_json(directory / "config.json")
        fig = loss_figure(directory / "log.jsonl", directory.name, math.log(config["vocab_size"]))
    except ImportError:
        return
    save_figure(fig, directory / "loss.png")


def save_figure(fig, path: Path) -> None:
    """Write a figure as a .png, whole or not at all."""
    with written_whole(path) as aside, signs_may_be_missing():
        fig.savefig(aside, format="png", dpi=110)


@contextmanager
def signs_may_be_missing() -> Iterator[None]:
    """A sign that the font lacks becomes a box; matplotlib's warning about it would tell a reader nothing."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from", UserWarning)
        yield


def svg(fig) -> str:
    """A figure as an <svg> element to put into a page."""
    buffer = io.StringIO()
    with signs_may_be_missing():
        fig.savefig(buffer, format="svg")
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def filter_figure(stages: list[tuple[str, list[float]]], tokens: list[str]):
    """Bars of one next-token distribution, panel by panel: as the model gives it, then as each filter leaves it."""
    columns, most = 3, max(max(probabilities) for _, probabilities in stages)
    rows = -(-len(stages) // columns)
    fig, panels = figure(9.6, 2.7 * rows, rows, columns, sharey=True)
    for axes in panels.flat[len(stages) :]:
        axes.remove()
    for axes, (title, probabilities) in zip(panels.flat, stages):
        places = range(len(tokens))
        axes.barh(places, probabilities, color=[BLUE if p > 0 else GREY for p in probabilities])
        for place, p in zip(places, probabilities):
            axes.text(
                p + 0.02 * most, place, f"{p:.2f}" if p else "out", va="center", fontsize=8, color=INK if p else SOFT
            )
        axes.set_title(title, fontsize=10, loc="left")
        axes.set(yticks=places, yticklabels=[visible(token) for token in tokens], xlim=(0, 1.25 * most), xticks=[])
        axes.invert_yaxis() if axes is panels.flat[0] else None  # the panels share this axis
        axes.spines[["top", "right", "bottom"]].set_visible(False)
    return fig


def kept_figure(steps: list[dict]):
    """How many tokens top-p and top-k keep at each step of one text."""
    fig, axes = figure(9.6, 2.6)
    places = range(1, len(steps) + 1)
    axes.step(places, [step["top_p"] for step in steps], where="mid", color=BLUE, label="top-p")
    axes.step(places, [step["top_k"] for step in steps], where="mid", color=ORANGE, label="top-k")
    axes.set(xlabel="step", ylabel="tokens kept", yscale="log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.legend(frameon=False, fontsize=9, loc="center right")
    return fig


def beam_svg(turns: list[dict], start: str) -> str:
    """A beam tree like the lecture's slide: paths by turn from left to right, kept ones dark, pruned ones grey.

    turns: per turn {"kept": [...], "pruned": [...]} of {"parent", "text", "probability", "best"}; parent: a row of the
    turn before among its kept. Each box shows the token and the probability of the whole path; ★ marks the best one.
    """
    column, line, box = 150, 34, 118
    height = max(len(turn["kept"]) + len(turn["pruned"]) for turn in turns) * line + 50
    parts = [f'<svg viewBox="0 0 {column * (len(turns) + 1)} {height}" class="tree" role="img">']
    parents = [(10, height / 2)]
    parts.append(_box(10, height / 2, box, escaped(start), "", "kept"))
    for turn_number, turn in enumerate(turns, start=1):
        x, places = 10 + turn_number * column, []
        entries = [(entry, True) for entry in turn["kept"]] + [(entry, False) for entry in turn["pruned"]]
        top = height / 2 - (len(entries) - 1) * line / 2
        for i, (entry, kept) in enumerate(entries):
            y, (from_x, from_y) = top + i * line, parents[entry["parent"]]
            style = "best" if entry["best"] else "kept" if kept else "pruned"
            text = escaped(entry["text"]) + (" ★" if entry["best"] else "")
            bend = (from_x + box + x) / 2
            parts.append(f'<path class="{style}" d="M{from_x + box} {from_y} C{bend} {from_y} {bend} {y} {x} {y}"/>')
            parts.append(_box(x, y, box, text, f"{entry['probability']:.3g}", style))
            if kept:
                places.append((x, y))
        parents = places
    return "".join(parts) + "</svg>"


def _box(x: float, y: float, width: float, text: str, probability: str, style: str) -> str:
    label = f'<text x="{x + 8}" y="{y + 4}">{text}</text>'
    figure = f'<text x="{x + width - 8}" y="{y + 4}" text-anchor="end" class="p">{probability}</text>'
    return f'<g class="{style}"><rect x="{x}" y="{y - 13}" width="{width}" height="26" rx="6"/>{label}{figure}</g>'
