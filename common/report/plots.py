"""The plots of a run, as SVG files whose colours follow the reader's light or dark mode.

Every function takes the path of the file (its ending becomes .svg) and returns that path; `labels` are title, xlabel,
ylabel. pyplot draws nothing, so nothing is global. Text stays text: browsers draw every script, also right to left.
"""

import io
import math
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from common.errors import write_bytes

INK, SOFT, GRID = "#222222", "#888888", "#e4e4e4"
# Okabe and Ito's colours without their yellow, which vanishes on white; and what all of them are on a dark page.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#444444")
DARK = ("#e4e7eb", "#8b94a0", "#353b43", "#4fa8e0", "#ff8a3d", "#2fc79a", "#e3a0c4", "#f0b73f", "#8fd0f5", "#b5bcc6")
STYLE = {"axes.titlelocation": "left", "axes.titleweight": "bold", "axes.titlesize": 13, "axes.titlecolor": INK}
STYLE |= {"axes.labelsize": 11.5, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK}
STYLE |= {"axes.grid": True, "axes.grid.axis": "y", "axes.axisbelow": True, "grid.color": GRID, "axes.edgecolor": SOFT}
STYLE |= {"axes.spines.top": False, "axes.spines.right": False, "figure.constrained_layout.use": True}
STYLE |= {"axes.facecolor": "none", "figure.facecolor": "none"}


def new_figure(title: str, xlabel: str = "", ylabel: str = "", size: tuple[float, float] = (5.8, 3.9)):
    """A figure of `size` inches and its axes; finish it with `save`."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=size)
        axes = figure.subplots()
        axes.set_title(plain(title), wrap=True)
        axes.set(xlabel=plain(xlabel), ylabel=plain(ylabel))
    return figure, axes


def plain(text: object) -> str:
    """Text from data as matplotlib draws it unchanged: no formulas, no hidden legend entries ("_silence_")."""
    text = "".join(c for c in str(text).encode("utf-8", "replace").decode() if c.isprintable()).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def save(figure, path: Path) -> Path:
    """Writes the figure, with a legend below it, as PATH.svg, in one move; folders are made."""
    import matplotlib

    path, file = Path(path).with_suffix(".svg"), io.StringIO()
    handles, names = figure.axes[0].get_legend_handles_labels()
    if entries := dict(zip(names, handles)):
        columns = max(1, min(len(entries), int(figure.get_figwidth() * 10.5 / (max(map(len, entries)) + 6))))
        style = {"ncols": columns, "frameon": False, "fontsize": 10.5, "labelcolor": INK}
        figure.legend(entries.values(), entries.keys(), loc="outside lower left", **style)
    style = {"svg.fonttype": "none", "svg.hashsalt": path.stem}
    with warnings.catch_warnings(action="ignore"), matplotlib.rc_context(style):  # a glyph that the browser's font has
        figure.savefig(file, format="svg", metadata={"Date": None})
    svg = file.getvalue().replace("'DejaVu Sans'", "system-ui, 'Segoe UI', 'Noto Sans', 'DejaVu Sans'")
    svg = svg.replace("<defs>", "<style>:root{color-scheme:light dark}</style><defs>", 1)
    for light, dark in zip((INK, SOFT, GRID, *PALETTE), DARK):  # what knows no light-dark() keeps the light colour
        svg = re.sub(rf"(fill|stroke): {light}", rf"\1: {light}; \1: light-dark({light}, {dark})", svg)
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_bytes(path, svg.encode())


def _name_ticks(axes, names: Iterable[object]) -> None:
    """Names along the x axis, cut where they are very long, slanted where they need the room, of many some."""
    names = [name if len(name) <= 24 else f"{name[:22]}..." for name in map(plain, names)]
    slanted = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if len("  ".join(names)) > 50 else {}
    step = math.ceil(len(names) / 40) or 1
    axes.set_xticks(range(0, len(names), step), names[::step], **slanted)


def lines(series: Mapping, path: Path, *, references: Mapping = {}, marks: Mapping = {}, **labels) -> Path:
    """Curves, legend entry -> (x, y), dashed ones, such as published values, and vertical lines, legend entry -> x."""
    figure, axes = new_figure(**labels)
    for index, (name, (x, y)) in enumerate((series | references).items()):
        style = {"linestyle": "--" if name in references else "-", "marker": "os^Dv"[index % 5] if len(x) <= 12 else ""}
        if len(x):
            axes.plot(x, y, color=PALETTE[index % 7], label=plain(name), **style)
    for index, (name, x) in enumerate(marks.items()):
        axes.axvline(x, color=INK, linestyle=("--", ":", "-.")[index % 3], label=plain(name))
    return save(figure, path)


def curves(history: Sequence, path: Path, *, series: Mapping, references: Mapping = {}, x="epoch", **labels) -> Path:
    """Training curves: `series` maps a legend entry to its key of results["history"], {"validation": "eval_loss"}.

    x: "epoch" or "step". references: legend entry -> {x: y}, such as published values, dashed. The Trainer's last row,
    which has total_flos and a mean over the whole training, is no point of a curve.
    """
    rows, found = [row for row in history if "total_flos" not in row and row.get(x) is not None], {}
    for name, key in series.items():
        found[name] = tuple(zip(*sorted((row[x], row[key]) for row in rows if row.get(key) is not None))) or ((), ())
    dashed = {name: (tuple(values), tuple(values.values())) for name, values in references.items()}
    return lines(found, path, xlabel=x, references=dashed, **labels)


def histogram(values, path: Path, *, cutoff=None, cutoff_label="", groups: Mapping = {}, **labels) -> Path:
    """Distribution of lengths or seconds [N], a cut-off marked with the share of examples beyond it.

    With `groups` (name -> values [N]; `values` None) each is drawn in shares of its own size. What lies beyond the
    99.9th percentile is counted in the last step.
    """
    parts = {name: np.asarray(part, dtype=float) for name, part in (groups or {"all": values}).items()}
    pooled = np.concatenate([*parts.values()])
    figure, axes = new_figure(ylabel="share (%)", **labels)
    low, high = (pooled.min(), max(np.percentile(pooled, 99.9), cutoff or 0)) if pooled.size else (0, 1)
    step = (high - low) / min(max(math.isqrt(pooled.size), 8), 40) or 1
    if np.all(pooled % 1 == 0):
        step = math.ceil(step)  # or counts of whole numbers would comb
    edges = np.arange(low, high + 1.5 * step, step)
    for index, (name, part) in enumerate(parts.items()):
        style = {"histtype": "step", "color": PALETTE[index % 7], "label": f"{plain(name)} ({part.size:,})"}
        axes.hist(np.minimum(part, high), edges, weights=np.full(part.size, 100 / max(part.size, 1)), **style)
    if cutoff is not None:
        axes.axvline(cutoff, color=INK, ls="--", label=f"{cutoff_label}: {100 * np.mean(pooled > cutoff):.2f} % beyond")
    return save(figure, path)


def grouped_bars(table: Mapping, path: Path, *, low_high: Mapping = {}, number="{:.1f}", **labels) -> Path:
    """Bars: `table` maps a group on the x axis to its bars and their values; without a name, bars are not in a legend.

    low_high: as `table`, the ends of intervals; it may have gaps. number: the format of values, which are written on up
    to 40 bars without intervals.
    """
    bars = list(dict.fromkeys(bar for group in table.values() for bar in group))
    shown, width = len(table) * len(bars), 0.82 / max(len(bars), 1)
    figure, axes = new_figure(size=(min(max(5.8, 0.24 * shown, 0.55 * len(table)), 12), 3.9), **labels)
    for index, bar in enumerate(bars):
        x = np.arange(len(table)) + (index - (len(bars) - 1) / 2) * width
        values = np.array([group.get(bar) for group in table.values()], dtype=float)
        ends = [low_high.get(group, {}).get(bar) or (None, None) for group in table]
        low, high = np.array(ends, dtype=float).T
        drawn = axes.bar(x, values, width * 0.92, color=PALETTE[index % 7], label=plain(bar) if bar else None)
        axes.errorbar(x, values, np.maximum([values - low, high - values], 0), fmt="none", ecolor=INK, capsize=2.5)
        if shown <= 40 and not low_high:
            axes.bar_label(drawn, fmt=number, padding=2, fontsize=8, color=INK, rotation=90 if shown > 14 else 0)
    _name_ticks(axes, table)
    axes.margins(y=0.16)
    return save(figure, path)


def class_counts(counts: Mapping[str, Mapping[str, int]], path: Path, *, title: str) -> Path:
    """Examples by class (x axis) and split (colour)."""
    classes = dict.fromkeys(label for split in counts.values() for label in split)
    table = {label: {split: values[label] for split, values in counts.items() if label in values} for label in classes}
    return grouped_bars(table, path, number="{:,.0f}", title=title, ylabel="examples")


def confusion_matrix(labels: Sequence[str], matrix: Sequence[Sequence[int]], path: Path, *, title: str) -> Path:
    """Counts with, below, their share of the row (the true class), which also is the colour; empty cells stay empty,
    and those of more than 30 classes have no room for figures."""
    from matplotlib.colors import LinearSegmentedColormap

    counts = np.asarray(matrix, dtype=float)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(max(4.6, 1.5 + 0.62 * len(labels)), 13)
    figure, axes = new_figure(title, "predicted", "true", size=(side, side * 0.92))
    blue = LinearSegmentedColormap.from_list("", [(PALETTE[0], 0), (PALETTE[0], 1)])
    axes.imshow(shares, cmap=blue, vmin=0, vmax=1)
    for at in np.argwhere(counts) if len(labels) <= 30 else ():
        said, share = f"{counts[*at]:,.0f}\n{100 * shares[*at]:.0f} %", shares[*at]
        axes.text(*at[::-1], said, ha="center", va="center", fontsize=9, color="white" if share > 0.55 else INK)
    _name_ticks(axes, labels)
    axes.set_yticks(axes.get_xticks(), [text.get_text() for text in axes.get_xticklabels()])
    axes.grid(False)
    axes.spines[:].set_visible(False)
    return save(figure, path)


def precision_recall(truth: np.ndarray, models: Mapping, path: Path, **labels) -> Path:
    """A curve of each model's scores [N] with its area in the legend; truth 0 or 1 [N]."""
    from matplotlib.figure import Figure
    from sklearn.metrics import PrecisionRecallDisplay

    axes = Figure().subplots()
    for name, scores in models.items():
        PrecisionRecallDisplay.from_predictions(truth, scores, ax=axes, name=name, drop_intermediate=True)
    found = {line.get_label(): line.get_data() for line in axes.lines}
    return lines(found, path, xlabel="recall", ylabel="precision", **labels)


def scatter(groups: Mapping[str, np.ndarray], path: Path, **labels) -> Path:
    """Points [N, 2] by group, such as a projection of vectors coloured by class."""
    figure, axes = new_figure(size=(5.8, 4.8), **labels)
    for index, (name, points) in enumerate(groups.items()):
        axes.scatter(*np.asarray(points).T, 12, color=PALETTE[index % 7], alpha=0.6, linewidths=0, label=plain(name))
    return save(figure, path)
