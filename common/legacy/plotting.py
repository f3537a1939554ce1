"""The plots of a run: distributions, curves, bars, confusion matrices, all in the look of `common.legacy.figures`.

Not for deciding what to plot: the scripts pass the numbers.
"""

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from common.legacy.figures import FONT, INK, PALETTE, legend, new_figure, no_data, plain, save


def _finite(values: Sequence[float] | None) -> np.ndarray:
    array = np.asarray([] if values is None else values, dtype=float).ravel()
    return array[np.isfinite(array)]


def _thousands(axis) -> None:
    from matplotlib.ticker import FuncFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))


def histogram(
    values: Sequence[float] | None,
    path: Path,
    *,
    title: str,
    xlabel: str,
    cutoff: float | None = None,
    cutoff_label: str | None = None,
    groups: Mapping[str, Sequence[float]] | None = None,
) -> Path:
    """Distribution of token lengths or seconds, the cut-off marked with the share of examples beyond it.

    With `groups` (name: values) the groups are laid over each other, each as shares of its own size, so that a small
    one stays visible; `values` may then be None. Groups of shares, 0 to 1, are shown in tenths.
    """
    parts = {name: _finite(part) for name, part in groups.items()} if groups else {"": _finite(values)}
    pooled = np.concatenate(list(parts.values()))
    figure, axes = new_figure(title, xlabel, "share of the group (%)" if groups else "examples")
    if not pooled.size:
        no_data(axes)
        return save(figure, path)
    # A few outliers would squeeze everything else into the first bars: they are counted below the axis instead.
    low, high = pooled.min(), max(np.percentile(pooled, 99.9), -math.inf if cutoff is None else 1.05 * cutoff)
    shares = bool(groups) and pooled.min() >= 0 and pooled.max() <= 1
    outside = 0 if shares else int(np.sum(pooled > high))
    high = min(high, pooled.max() if cutoff is None else max(pooled.max(), cutoff))
    if outside:
        axes.set_xlabel(plain(f"{xlabel} ({outside:,} beyond the axis, up to {round(pooled.max(), 1):,g})"))
    count, most = math.isqrt(pooled.size), 24 if groups else 50
    if np.all(pooled == np.round(pooled)):  # whole numbers: bins of equal whole width, or the counts would comb
        width = max(1, math.ceil((high - low + 1) / min(max(count, 8), most)))
        edges = np.arange(low, high + width + 1, width) - 0.5
    elif shares:  # of short texts they are simple fractions: finer bins would comb
        edges = np.arange(11) / 10
    else:
        edges = np.linspace(low, high if high > low else low + 1, min(max(count, 8), most) + 1)
    for index, (name, part) in enumerate(parts.items()):
        color = PALETTE[index % len(PALETTE)]
        if groups:
            weights = np.full(part.size, 100 / max(part.size, 1))
            label = f"{plain(name)} ({part.size:,})"
            if len(parts) == 2:  # the fillings of more than two make mud
                axes.hist(part, edges, weights=weights, histtype="stepfilled", color=color, alpha=0.18)
            axes.hist(part, edges, weights=weights, histtype="step", color=color, linewidth=1.8, label=label)
        else:
            axes.hist(part, edges, color=color, edgecolor="white", linewidth=0.4)
    if cutoff is not None:
        beyond = f"{100 * np.mean(pooled > cutoff):.2f} % beyond"
        label = f"{plain(cutoff_label or f'{cutoff:g}')}: {beyond}"
        axes.axvline(cutoff, color=INK, linestyle="--", linewidth=1.6, label=label)
    _thousands(axes.xaxis)
    _thousands(axes.yaxis)
    legend(figure, axes)
    return save(figure, path)


def curves(history: Sequence[Mapping[str, float]], path: Path, *, title: str, series: Mapping[str, str]) -> Path:
    """Training curves by epoch, in one figure.

    `history` is results["history"]; `series` maps a legend entry to the key it shows, `{"train": "loss", "validation":
    "eval_loss"}`. Several runs go into one figure when their rows are joined under different keys. Missing and NaN
    values are left out, few points get markers.
    """
    from matplotlib.ticker import MaxNLocator

    losses = all(key.endswith("loss") for key in series.values())
    figure, axes = new_figure(title, "epoch", "loss" if losses else "")
    drawn = False
    for index, (name, key) in enumerate(series.items()):
        points = [(row.get("epoch", row.get("step")), row.get(key)) for row in history]
        points = [(x, y) for x, y in points if x is not None and y is not None and math.isfinite(y)]
        if not points:
            continue
        drawn = True
        x, y = zip(*sorted(points), strict=True)
        sparse = {"marker": "os^Dv"[index % 5], "markersize": 5.5} if len(points) <= 40 else {}
        color = PALETTE[index % len(PALETTE)]
        axes.plot(x, y, color=color, linewidth=1.8, label=plain(name), **sparse)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    if drawn:
        legend(figure, axes)
    else:
        no_data(axes, "nothing was logged")
    return save(figure, path)


def _bars(figure, axes, table: Mapping, *, low_high: Mapping, baseline: Mapping, number, limit: int) -> None:
    """Groups of bars on the x axis; `number` formats the values written on them, left out above `limit` bars."""
    import matplotlib.patheffects as effects

    bars = list(dict.fromkeys(bar for group in table.values() for bar in group))
    width = 0.82 / max(len(bars), 1)
    shown = len(table) * len(bars)
    crowded = shown > 9
    dash = None
    halo = [effects.withStroke(linewidth=2.5, foreground="white")]
    for index, bar in enumerate(bars):
        color = PALETTE[index % len(PALETTE)]
        label = plain(bar)
        for place, (group, values) in enumerate(table.items()):
            value = values.get(bar)
            if value is None or not math.isfinite(value):
                continue
            x = place + (index - (len(bars) - 1) / 2) * width
            axes.bar(x, value, width * 0.92, color=color, label=label)
            label = None  # one legend entry for all groups
            top = value
            low, high = low_high.get(group, {}).get(bar) or (None, None)
            if low is not None and high is not None:
                spread = [[max(value - low, 0)], [max(high - value, 0)]]
                axes.errorbar(x, value, spread, color=INK, linewidth=1.2, capsize=2.5)
                top = max(top, high)
            under = baseline.get(group, {}).get(bar)
            if under is not None and math.isfinite(under):
                ends = ([x - width * 0.46, x + width * 0.46], [under, under])
                axes.plot(*ends, color="white", linewidth=4.5, solid_capstyle="butt")  # seen on its bar, too
                (dash,) = axes.plot(*ends, color=INK, linewidth=2.2, solid_capstyle="butt")
            if shown <= limit:
                text = {"ha": "center", "va": "bottom", "fontsize": FONT - (3.5 if crowded else 1.5), "color": INK}
                turned = 90 if shown > 14 else 0
                at, offset = (x, top), (0, 3)
                axes.annotate(
                    number(value), at, offset, textcoords="offset points", rotation=turned, path_effects=halo, **text
                )
    if dash is not None:
        dash.set_label("baseline")
    room = int(11 * figure.get_figwidth() / max(len(table), 1))  # characters for a name, words kept whole
    parts = [textwrap.wrap(plain(name), 14) for name in table]
    names = ["\n".join(line for part in p for line in textwrap.wrap(part, room, break_long_words=False)) for p in parts]
    names = [name or " " for name in names]
    slanted = len(table) > 7 or max(map(len, names), default=0) > 40
    if slanted:
        names = [textwrap.shorten(plain(name), 24, placeholder="...") for name in table]
    rotation = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if slanted else {}
    axes.set_xticks(range(len(table)), names, **rotation)
    axes.margins(y=0.16 if shown > 14 else 0.1)
    if len(bars) > 1 or dash is not None:
        legend(figure, axes)


def grouped_bars(
    table: Mapping[str, Mapping[str, float]],
    path: Path,
    *,
    title: str,
    ylabel: str,
    low_high: Mapping[str, Mapping[str, tuple[float, float]]] | None = None,
    baseline: Mapping[str, Mapping[str, float]] | None = None,
) -> Path:
    """Metrics as bars: `table` maps a group (answerable, all, ...) to its bars (EM, F1) and their values.

    `low_high` gives the ends of intervals and `baseline` the trivial answer's values, in the shape of `table`; both
    may have gaps.
    """
    values = _finite([v for group in table.values() for v in group.values() if v is not None])
    figure, axes = new_figure(title, "", ylabel, size=(min(max(5.8, 0.24 * values.size), 12), 3.9))
    if not values.size:
        no_data(axes)
        return save(figure, path)
    digits = 1 if values.max() > 1.5 else 3 if values.size < 10 else 2
    number = f"{{:.{digits}f}}".format
    _bars(figure, axes, table, low_high=low_high or {}, baseline=baseline or {}, number=number, limit=40)
    return save(figure, path)


def class_counts(counts: Mapping[str, Mapping[str, int]], path: Path, *, title: str) -> Path:
    """Examples by class (x axis) and split (colour). The scale is logarithmic where counts differ over 50 times."""
    labels = list(dict.fromkeys(label for split in counts.values() for label in split))
    table = {label: {split: values[label] for split, values in counts.items() if label in values} for label in labels}
    positive = [value for split in counts.values() for value in split.values() if value > 0]
    figure, axes = new_figure(title, "", "examples", size=(min(max(5.8, 0.55 * len(labels)), 12), 3.9))
    if not positive:
        no_data(axes)
        return save(figure, path)
    logarithmic = max(positive) > 50 * min(positive)
    if logarithmic:  # before the bars: their labels and margins depend on the scale
        axes.set_yscale("log")
        axes.set_ylabel("examples (logarithmic)")
    _bars(figure, axes, table, low_high={}, baseline={}, number="{:,.0f}".format, limit=36)
    if logarithmic:
        axes.set_ylim(bottom=min(positive) / 2)
        axes.margins(y=0.16)
    _thousands(axes.yaxis)
    return save(figure, path)


def lines(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    path: Path,
    *,
    title: str,
    xlabel: str,
    ylabel: str,
    diagonal: bool = False,
    logarithmic: bool = False,
    points: Mapping[str, tuple[float, float]] | None = None,
) -> Path:
    """Curves of y over x, the first drawn strongest; `series` maps a legend entry to (x, y).

    For precision over recall, for ROC (with its diagonal) and for calibration. `logarithmic`: both axes, what is not
    positive left out. `points` maps a legend entry to a point that is marked on them, such as a threshold's.
    """
    figure, axes = new_figure(title, xlabel, ylabel)
    drawn = False
    for index, (name, (x, y)) in enumerate(series.items()):
        x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
        kept = np.isfinite(x) & np.isfinite(y) & (((x > 0) & (y > 0)) if logarithmic else True)
        if not kept.any():
            continue
        drawn = True
        marker = {"marker": "os^Dv"[index % 5], "markersize": 4.5} if kept.sum() <= 20 else {}
        width = 2.2 if index == 0 else 1.5
        axes.plot(x[kept], y[kept], color=PALETTE[index % len(PALETTE)], linewidth=width, label=plain(name), **marker)
    if not drawn:
        no_data(axes)
        return save(figure, path)
    for index, (name, (x, y)) in enumerate((points or {}).items()):
        axes.plot(x, y, "*Xh"[index % 3], color=INK, markersize=10, linestyle="none", label=plain(name), zorder=5)
    if logarithmic:
        axes.set(xscale="log", yscale="log")
    if diagonal:
        low, high = (max(axes.get_xlim()[0], axes.get_ylim()[0]), min(axes.get_xlim()[1], axes.get_ylim()[1]))
        axes.plot([low, high], [low, high], color="#777777", linewidth=1.2, linestyle="--", zorder=1)
    axes.grid(axis="both", color="#E4E4E4", linewidth=0.8)
    legend(figure, axes)
    return save(figure, path)


def threshold_curve(
    thresholds: Sequence[float],
    series: Mapping[str, Sequence[float]],
    path: Path,
    *,
    title: str,
    xlabel: str,
    ylabel: str,
    marks: Mapping[str, float],
) -> Path:
    """Scores by decision threshold, with vertical marks (label: threshold).

    The x axis shows the middle 99 % of the thresholds, because a few extreme scores would otherwise squeeze all that
    matters into one corner; a mark outside is named in the legend as off the scale.
    """
    x = np.asarray(thresholds, dtype=float)
    order = np.argsort(x, kind="stable")
    order = order[np.isfinite(x[order])]
    figure, axes = new_figure(title, xlabel, ylabel)
    if not order.size:
        no_data(axes)
        return save(figure, path)
    low, high = np.percentile(x[order], [0.5, 99.5])
    if low == high:
        low, high = low - 1, high + 1
    seen = order[(x[order] >= low) & (x[order] <= high)]
    marker = "o" if seen.size == 1 else None
    for index, (name, values) in enumerate(series.items()):
        y = np.asarray(values, dtype=float)[seen]
        axes.plot(x[seen], y, color=PALETTE[index % len(PALETTE)], linewidth=1.8, marker=marker, label=plain(name))
    for index, (name, at) in enumerate(marks.items()):
        label = f"{plain(name)}: {at:.4g}"
        if low <= at <= high:
            style = ("--", ":", "-.")[index % 3]
            axes.axvline(at, color=INK, linestyle=style, linewidth=1.5, label=label)
        else:
            axes.plot([], [], " ", label=f"{label} (off the scale)")
    axes.set_xlim(low, high)
    legend(figure, axes)
    return save(figure, path)


def confusion_matrix(labels: Sequence[str], matrix: Sequence[Sequence[int]], path: Path, *, title: str) -> Path:
    """Counts with, below, their share of the row (the true class), which also is the colour."""
    counts = np.asarray(matrix, dtype=float).reshape(len(labels), len(labels))
    side = min(max(4.6, 1.5 + 0.62 * len(labels)), 13)
    figure, axes = new_figure(title, "predicted", "true", size=(side, side * 0.92))
    axes.grid(False)
    if not len(labels):
        no_data(axes)
        return save(figure, path)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    small = FONT - 2 if len(labels) <= 8 else FONT - 3
    for row, column in np.argwhere(counts):  # empty cells stay empty: what is wrong stands out
        text = f"{counts[row, column]:,.0f}\n{100 * shares[row, column]:.0f} %"
        color = "white" if shares[row, column] > 0.55 else INK
        axes.text(column, row, text, ha="center", va="center", fontsize=small, color=color)
    names = [textwrap.shorten(plain(label), 20, placeholder="...") or " " for label in labels]
    slanted = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if max(map(len, names)) > 4 else {}
    axes.set_xticks(range(len(names)), names, **slanted)
    axes.set_yticks(range(len(names)), names)
    axes.spines[:].set_visible(False)
    return save(figure, path)
