"""The plots of a run, as SVG files whose colours follow the reader's light or dark mode.

Every function takes the path of the file (its ending becomes .svg) and returns that path; `labels` are title, xlabel,
ylabel. pyplot draws nothing, so nothing is global. Text stays text: browsers draw every script, also right to left.
"""

import io
import math
import re
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from common.errors import write_bytes

INK, SOFT, GRID = "#222222", "#888888", "#e4e4e4"
# Okabe and Ito's colours without their yellow, which vanishes on white; and what all of them are on a dark page.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#444444")
DARK = ("#e4e7eb", "#8b94a0", "#353b43", "#4fa8e0", "#ff8a3d", "#2fc79a", "#e3a0c4", "#f0b73f", "#8fd0f5", "#b5bcc6")
SLANTED = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"}


def new_figure(title: str, xlabel: str = "", ylabel: str = "", size: tuple[float, float] = (5.8, 3.9)):
    """A figure of `size` inches and its axes; finish it with `save`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained", facecolor="none")
    axes = figure.subplots(subplot_kw={"facecolor": "none"})
    title = "\n".join(textwrap.wrap(plain(title), int(size[0] * 8.6)))
    axes.set_title(title, loc="left", fontsize=13, fontweight="bold", color=INK, pad=10)
    axes.set_xlabel(plain(xlabel), fontsize=11.5, color=INK)
    axes.set_ylabel(plain(ylabel), fontsize=11.5, color=INK)
    axes.tick_params(labelsize=10.5, colors=INK, length=3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(SOFT)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def plain(text: object) -> str:
    """Text from data as matplotlib draws it unchanged: no formulas, no hidden legend entries ("_silence_")."""
    text = "".join(c for c in str(text).encode("utf-8", "replace").decode() if c.isprintable()).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def save(figure, path: Path, *, marks: Mapping = {}) -> Path:
    """Writes the figure, with a legend below it, as PATH.svg, in one move; folders are made.

    marks: vertical lines on the first axes, legend entry -> x.
    """
    import matplotlib

    axes, path, file = figure.axes[0], Path(path).with_suffix(".svg"), io.StringIO()
    for index, (name, x) in enumerate(marks.items()):
        axes.axvline(x, color=INK, linestyle=("--", ":", "-.")[index % 3], linewidth=1.6, label=plain(name))
    handles, names = axes.get_legend_handles_labels()
    if entries := dict(zip(names, handles)):
        columns = max(1, min(len(entries), int(figure.get_figwidth() * 10.5 / (max(map(len, entries)) + 6))))
        style = {"ncols": columns, "frameon": False, "fontsize": 10.5, "labelcolor": INK}
        figure.legend(entries.values(), entries.keys(), loc="outside lower left", **style)
    if not axes.has_data():
        axes.text(0.5, 0.5, "no data", transform=axes.transAxes, ha="center", fontsize=13, color=SOFT)
        axes.set(xticks=[], yticks=[])
    with warnings.catch_warnings(), matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": path.stem}):
        warnings.filterwarnings("ignore", message=".*[Gg]lyph.*")  # what the font lacks, the browser's has
        figure.savefig(file, format="svg", metadata={"Date": None})
    svg = file.getvalue().replace("'DejaVu Sans'", "system-ui, 'Segoe UI', 'Noto Sans', 'DejaVu Sans'")
    svg = svg.replace("<defs>", "<style>:root{color-scheme:light dark}</style><defs>", 1)
    for light, dark in zip((INK, SOFT, GRID, *PALETTE), DARK):  # what knows no light-dark() keeps the light colour
        svg = re.sub(rf"(fill|stroke): {light}", rf"\1: {light}; \1: light-dark({light}, {dark})", svg)
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_bytes(path, svg.encode())


def lines(series: Mapping, path: Path, *, references: Mapping = {}, marks: Mapping = {}, log=False, **labels) -> Path:
    """Curves, legend entry -> (x, y); what is not finite (or, `log`, not positive) is left out.

    references: dashed curves, such as published values. marks: vertical lines, legend entry -> x.
    """
    figure, axes = new_figure(**labels)
    for name, (x, y) in (series | references).items():
        x, y, index = np.asarray(x, dtype=float), np.asarray(y, dtype=float), len(axes.lines)
        kept = np.isfinite(x) & np.isfinite(y) & (((x > 0) & (y > 0)) if log else True)
        style = {"marker": "os^Dv"[index % 5], "markersize": 5} if kept.sum() <= 40 else {}
        style |= {"linestyle": "--" if name in references else "-", "color": PALETTE[index % 7], "label": plain(name)}
        if kept.any():
            axes.plot(x[kept], y[kept], linewidth=1.8, **style)
    if log:
        axes.set(xscale="log", yscale="log")
    return save(figure, path, marks=marks)


def curves(history: Sequence, path: Path, *, series: Mapping, references: Mapping = {}, x="epoch", **labels) -> Path:
    """Training curves: `series` maps a legend entry to its key of results["history"], {"validation": "eval_loss"}.

    x: "epoch" or "step". references: legend entry -> {x: y}, such as published values, dashed. The row that the Trainer
    logs at its end, whose train_loss is the mean over the whole training, is no point of a curve.
    """
    rows, found = [row for row in history if "total_flos" not in row and row.get(x) is not None], {}
    for name, key in series.items():
        found[name] = tuple(zip(*sorted((row[x], row[key]) for row in rows if row.get(key) is not None))) or ((), ())
    dashed = {name: (tuple(values), tuple(values.values())) for name, values in references.items()}
    ylabel = "loss" if all(key.endswith("loss") for key in series.values()) else ""
    return lines(found, path, xlabel=x, ylabel=ylabel, references=dashed, **labels)


def threshold_curve(thresholds: Sequence[float], series: Mapping, path: Path, *, marks: Mapping, **labels) -> Path:
    """Scores by decision threshold, with marks (label -> threshold), over the middle 99 % of the thresholds."""
    x, named = np.asarray(thresholds, dtype=float), {}
    low, high = np.percentile(x[np.isfinite(x)], [0.5, 99.5])
    order = np.argsort(x, kind="stable")
    order = order[(x[order] >= low) & (x[order] <= high)]
    for name, at in marks.items():
        off = "" if low <= at <= high else " (off the scale)"
        named[f"{name}: {at:.4g}{off}"] = np.clip(at, low, high)
    found = {name: (x[order], np.asarray(values)[order]) for name, values in series.items()}
    return lines(found, path, marks=named, **labels)


def histogram(values, path: Path, *, cutoff=None, cutoff_label="", groups: Mapping = {}, **labels) -> Path:
    """Distribution of lengths or seconds [N], a cut-off marked with the share of examples beyond it.

    With `groups` (name -> values [N]; `values` None) each is drawn in shares of its own size. The axis ends at the
    99.9th percentile, and says how many lie beyond it.
    """
    parts = {name: np.asarray(part, dtype=float) for name, part in (groups or {"": values}).items()}
    parts = {name: part[np.isfinite(part)] for name, part in parts.items()}
    pooled = np.concatenate([*parts.values(), []])
    figure, axes = new_figure(ylabel="share of the group (%)" if groups else "examples", **labels)
    if not pooled.size:
        return save(figure, path)
    low, top = pooled.min(), pooled.max()
    high = min(top, 1.05 * max(cutoff or low, *(np.percentile(part, 99.9) for part in parts.values() if part.size)))
    if outside := int(np.sum(pooled > high)):
        axes.set_xlabel(plain(f"{labels['xlabel']} ({outside:,} beyond the axis, up to {round(top, 1):,.10g})"))
    bins = min(max(math.isqrt(pooled.size), 8), 24 if groups else 50)
    edges = np.linspace(low, high if high > low else low + 1, bins + 1)
    if np.all(pooled == np.round(pooled)):  # bins of whole width, or counts of whole numbers would comb
        width = max(1, math.ceil((high - low + 1) / bins))
        edges = np.arange(low, high + width + 1, width) - 0.5
    for index, (name, part) in enumerate(parts.items()):
        style = {"rwidth": 0.94}
        if groups:
            style = {"histtype": "step", "linewidth": 1.8, "label": f"{plain(name)} ({part.size:,})"}
            style["weights"] = np.full(part.size, 100 / max(part.size, 1))
        axes.hist(part, edges, color=PALETTE[index % 7], **style)
    axes.xaxis.set_major_formatter("{x:,.10g}")
    axes.yaxis.set_major_formatter("{x:,.10g}")
    beyond = f"{cutoff_label or f'{cutoff or 0:.4g}'}: {100 * np.mean(pooled > (cutoff or 0)):.2f} % beyond"
    return save(figure, path, marks={} if cutoff is None else {beyond: cutoff})


def grouped_bars(
    table: Mapping,
    path: Path,
    *,
    low_high: Mapping = {},
    baseline: Mapping = {},
    number="",
    log=False,
    **labels,
) -> Path:
    """Bars: `table` maps a group on the x axis to its bars and their values; without a name, bars are not in a legend.

    low_high: as `table`, the ends of intervals. baseline: as `table`, the trivial answer's values, a line across the
    bar. Both may have gaps. number: the format of the values that are written on up to 40 bars.
    """
    bars = list(dict.fromkeys(bar for group in table.values() for bar in group))
    shown, width = len(table) * len(bars), 0.82 / max(len(bars), 1)
    figure, axes = new_figure(size=(min(max(5.8, 0.24 * shown, 0.55 * len(table)), 12), 3.9), **labels)
    axes.set_yscale("log" if log else "linear")
    style = {"fontsize": 8 if shown > 9 else 10, "rotation": 90 if shown > 14 else 0, "color": INK, "ha": "center"}
    for index, bar in enumerate(bars):
        x = np.arange(len(table)) + (index - (len(bars) - 1) / 2) * width
        values, under = (
            np.array([part.get(group, {}).get(bar) for group in table], dtype=float) for part in (table, baseline)
        )
        ends = [low_high.get(group, {}).get(bar) or (None, None) for group in table]
        low, high = np.array(ends, dtype=float).reshape(-1, 2).T
        axes.bar(x, values, width * 0.92, color=PALETTE[index % 7], label=plain(bar) if len(bars) > 1 else None)
        spread = np.maximum([values - low, high - values], 0)
        axes.errorbar(x, values, spread, fmt="none", ecolor=INK, elinewidth=1.2, capsize=2.5)
        if not np.isnan(under).all():
            axes.hlines(under, x - width * 0.46, x + width * 0.46, color=INK, linewidth=2.2, label="baseline")
        for at, value, *others in zip(x, values, high, under) if shown <= 40 else ():
            text = (number or ("{:.1f}" if value > 1.5 else "{:.2f}")).format(value) if np.isfinite(value) else ""
            axes.annotate(text, (at, np.nanmax([value, *others, 0])), (0, 3), textcoords="offset points", **style)
    room = max(8, int(11 * figure.get_figwidth() / max(len(table), 1)))  # characters for a name, words kept whole
    names = ["\n".join(textwrap.wrap(plain(name), room, break_long_words=False)) for name in table]
    slanted = len(table) > 7 or max(map(len, names), default=0) > 40
    names = [textwrap.shorten(plain(name), 24, placeholder="...") for name in table] if slanted else names
    axes.set_xticks(range(len(table)), names, **(SLANTED if slanted else {}))
    axes.margins(y=0.16)
    return save(figure, path)


def class_counts(counts: Mapping[str, Mapping[str, int]], path: Path, *, title: str) -> Path:
    """Examples by class (x axis) and split (colour). The scale is logarithmic where counts differ over 50 times."""
    classes = dict.fromkeys(label for split in counts.values() for label in split)
    table = {label: {split: values[label] for split, values in counts.items() if label in values} for label in classes}
    positive = [value for split in counts.values() for value in split.values() if value > 0] or [1]
    wide = max(positive) > 50 * min(positive)
    labels = {"title": title, "ylabel": "examples (logarithmic)" if wide else "examples"}
    return grouped_bars(table, path, number="{:,.0f}", log=wide, **labels)


def confusion_matrix(labels: Sequence[str], matrix: Sequence[Sequence[int]], path: Path, *, title: str) -> Path:
    """Counts with, below, their share of the row (the true class), which also is the colour."""
    from matplotlib.colors import LinearSegmentedColormap
    from sklearn.metrics import ConfusionMatrixDisplay

    counts = np.asarray(matrix, dtype=float)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(max(4.6, 1.5 + 0.62 * len(labels)), 13)
    figure, axes = new_figure(title, size=(side, side * 0.92))
    clear = LinearSegmentedColormap.from_list("clear", [(0, 0.447, 0.698, 0), (0, 0.447, 0.698, 1)])
    display = ConfusionMatrixDisplay(shares)
    display.plot(ax=axes, cmap=clear, colorbar=False, im_kw={"vmin": 0, "vmax": 1})
    for at, text in np.ndenumerate(display.text_):  # empty cells stay empty: what is wrong stands out
        text.set_text(f"{counts[at]:,.0f}\n{100 * shares[at]:.0f} %" if counts[at] else "")
        text.set(color="white" if shares[at] > 0.55 else INK, fontsize=9.5 if len(labels) <= 8 else 8.5)
    names = [textwrap.shorten(plain(label), 20, placeholder="...") for label in labels]
    axes.set_xticks(range(len(names)), names, **(SLANTED if max(map(len, names)) > 4 else {}))
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="predicted", ylabel="true")
    axes.grid(False)
    axes.spines[:].set_visible(False)
    return save(figure, path)


def ranked(display, truth: np.ndarray, models: Mapping, path: Path, *, points: Mapping = {}, **labels) -> Path:
    """A curve of each model's scores [N] with its area in the legend; truth 0 or 1 [N].

    display: scikit-learn's PrecisionRecallDisplay or RocCurveDisplay. points: legend entry -> (x, y), as a threshold's.
    """
    figure, axes = new_figure(**labels)
    for index, (name, scores) in enumerate(models.items()):
        style = {"curve_kwargs": {"color": PALETTE[index % 7], "linewidth": 1.8}, "despine": True}
        display.from_predictions(truth, scores, ax=axes, name=plain(name), drop_intermediate=True, **style)
    for name, (x, y) in points.items():
        axes.plot(x, y, "*", color=INK, markersize=10, label=plain(name), zorder=5)
    axes.legend().remove()  # `save` draws one where it hides nothing
    axes.set(xlabel=labels["xlabel"], ylabel=labels["ylabel"], aspect="auto")
    return save(figure, path)


def reliability(truth: np.ndarray, models: Mapping, path: Path, *, title: str, bins: int = 10) -> Path:
    """Share of positives over the mean probability of each model [N], in bins of equally many positives.

    In bins of equally many examples, where one in 600 is positive, all but the last would have next to none.
    """
    found = {}
    for name, probabilities in models.items():
        scores = probabilities[truth == 1]
        edges = np.unique(np.quantile(scores, np.arange(1, bins) / bins)) if len(scores) >= bins else []
        of = np.searchsorted(edges, probabilities, "right")
        rows = np.maximum(np.bincount(of, minlength=len(edges) + 1), 1)
        found[name] = np.bincount(of, probabilities, len(rows)) / rows, np.bincount(of, truth, len(rows)) / rows
    ends = min(x[x > 0].min() for x, _ in found.values()), 1
    labels = {"title": title, "xlabel": "mean probability", "ylabel": "share of positives"}
    return lines(found, path, references={"perfect": (ends, ends)}, log=True, **labels)


def scatter(groups: Mapping[str, np.ndarray], path: Path, **labels) -> Path:
    """Points [N, 2] by group, such as a projection of vectors coloured by class."""
    figure, axes = new_figure(size=(5.8, 4.8), **labels)
    for index, (name, points) in enumerate(groups.items()):
        axes.scatter(*np.asarray(points).T, 12, color=PALETTE[index % 7], alpha=0.6, linewidths=0, label=plain(name))
    return save(figure, path)
