"""One look for every plot of a run: PNG files on white, in colours that colour-blind readers can tell apart.

What a figure begins and ends with, whatever is drawn in it (`common.legacy.plotting`). Nothing here touches pyplot, so nothing
is global and a run on many threads or without a display draws the same pictures.
"""

import io
import textwrap
import warnings
from pathlib import Path

import numpy as np

from common.legacy.files import write_bytes

# Okabe and Ito's palette without its yellow, which vanishes on white.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#444444")
INK = "#222222"
DPI = 170
FONT = 11.5  # large for 5.8 inches: the page shows the picture on a phone at a third of its pixels


def plain(text: object) -> str:
    """Text from data as matplotlib may safely draw it: no formulas, no broken characters, legend entries kept."""
    text = str(text).encode("utf-8", "replace").decode("utf-8").replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text  # matplotlib hides labels like "_silence_"


def new_figure(title: str, xlabel: str = "", ylabel: str = "", size: tuple[float, float] = (5.8, 3.9)):
    """A figure of `size` inches and its axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=DPI, facecolor="white", layout="constrained")
    axes = figure.subplots()
    lines = textwrap.wrap(plain(title), width=int(size[0] * 8.6))
    axes.set_title("\n".join(lines), loc="left", fontsize=FONT + 1.5, fontweight="bold", color=INK, pad=10)
    axes.set_xlabel(plain(xlabel), fontsize=FONT, color=INK)
    axes.set_ylabel(plain(ylabel), fontsize=FONT, color=INK)
    axes.tick_params(labelsize=FONT - 1, colors=INK, length=3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#888888")
    axes.grid(axis="y", color="#E4E4E4", linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def legend(figure, axes) -> None:
    """The legend below the axes, where it can hide nothing."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        entries = sorted(zip(handles, labels), key=lambda entry: entry[1] == "baseline")  # lines would come first
        handles, labels = zip(*entries, strict=True)
        room = figure.get_figwidth() * 10.5  # characters of a line, a handle counted as six
        columns = min(len(labels), 4)
        while columns > 1:
            widths = [max(map(len, part)) + 6 for part in np.array_split(labels, columns)]  # as matplotlib fills them
            if sum(widths) <= room:
                break
            columns -= 1
        figure.legend(handles, labels, loc="outside lower left", ncols=columns, frameon=False, fontsize=FONT - 1)


def no_data(axes, text: str = "no data") -> None:
    """Says on empty axes why they are empty."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", fontsize=FONT + 2, color="#666666")
    axes.set(xticks=[], yticks=[])


def save(figure, path: Path) -> Path:
    """Writes the figure as PNG, in one move; folders are made."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*[Gg]lyph.*")  # a script the font lacks is drawn as boxes
        figure.savefig(buffer, format="png")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_bytes(path, buffer.getvalue())
