"""One look for every plot of a run: PNG files on white, in colours that colour-blind readers can tell apart.

Not for deciding what to plot: the scripts pass the numbers. Nothing here touches pyplot, so nothing is global and a
run on many threads or without a display draws the same pictures.
"""

import io
import math
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from common.files import write_bytes

# Okabe and Ito's palette without its yellow, which vanishes on white.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#444444")
INK = "#222222"
DPI = 170
FONT = 11.5  # large for 5.8 inches: the page shows the picture on a phone at a third of its pixels


def _plain(text: object) -> str:
    """Text from data as matplotlib may safely draw it: no formulas, no broken characters, legend entries kept."""
    text = str(text).encode("utf-8", "replace").decode("utf-8").replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text  # matplotlib hides labels like "_silence_"


def _axes(title: str, xlabel: str = "", ylabel: str = "", size: tuple[float, float] = (5.8, 3.9)):
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=DPI, facecolor="white", layout="constrained")
    axes = figure.subplots()
    lines = textwrap.wrap(_plain(title), width=int(size[0] * 8.6))
    axes.set_title("\n".join(lines), loc="left", fontsize=FONT + 1.5, fontweight="bold", color=INK, pad=10)
    axes.set_xlabel(_plain(xlabel), fontsize=FONT, color=INK)
    axes.set_ylabel(_plain(ylabel), fontsize=FONT, color=INK)
    axes.tick_params(labelsize=FONT - 1, colors=INK, length=3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#888888")
    axes.grid(axis="y", color="#E4E4E4", linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def _legend(figure, axes) -> None:
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


def _no_data(axes, text: str = "no data") -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", fontsize=FONT + 2, color="#666666")
    axes.set(xticks=[], yticks=[])


def _save(figure, path: Path) -> Path:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*[Gg]lyph.*")  # a script the font lacks is drawn as boxes
        figure.savefig(buffer, format="png")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_bytes(path, buffer.getvalue())


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
    figure, axes = _axes(title, xlabel, "share of the group (%)" if groups else "examples")
    if not pooled.size:
        _no_data(axes)
        return _save(figure, path)
    # A few outliers would squeeze everything else into the first bars: they are counted below the axis instead.
    low, high = pooled.min(), max(np.percentile(pooled, 99.9), -math.inf if cutoff is None else 1.05 * cutoff)
    shares = bool(groups) and pooled.min() >= 0 and pooled.max() <= 1
    outside = 0 if shares else int(np.sum(pooled > high))
    high = min(high, pooled.max() if cutoff is None else max(pooled.max(), cutoff))
    if outside:
        axes.set_xlabel(_plain(f"{xlabel} ({outside:,} beyond the axis, up to {round(pooled.max(), 1):,g})"))
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
            label = f"{_plain(name)} ({part.size:,})"
            if len(parts) == 2:  # the fillings of more than two make mud
                axes.hist(part, edges, weights=weights, histtype="stepfilled", color=color, alpha=0.18)
            axes.hist(part, edges, weights=weights, histtype="step", color=color, linewidth=1.8, label=label)
        else:
            axes.hist(part, edges, color=color, edgecolor="white", linewidth=0.4)
    if cutoff is not None:
        beyond = f"{100 * np.mean(pooled > cutoff):.2f} % beyond"
        label = f"{_plain(cutoff_label or f'{cutoff:g}')}: {beyond}"
        axes.axvline(cutoff, color=INK, linestyle="--", linewidth=1.6, label=label)
    _thousands(axes.xaxis)
    _thousands(axes.yaxis)
    _legend(figure, axes)
    return _save(figure, path)


def curves(history: Sequence[Mapping[str, float]], path: Path, *, title: str, series: Mapping[str, str]) -> Path:
    """Training curves by epoch, in one figure.

    `history` is results["history"]; `series` maps a legend entry to the key it shows, `{"train": "loss", "validation":
    "eval_loss"}`. Several runs go into one figure when their rows are joined under different keys. Missing and NaN
    values are left out, few points get markers.
    """
    from matplotlib.ticker import MaxNLocator

    losses = all(key.endswith("loss") for key in series.values())
    figure, axes = _axes(title, "epoch", "loss" if losses else "")
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
        axes.plot(x, y, color=color, linewidth=1.8, label=_plain(name), **sparse)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    if drawn:
        _legend(figure, axes)
    else:
        _no_data(axes, "nothing was logged")
    return _save(figure, path)


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
        label = _plain(bar)
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
    parts = [textwrap.wrap(_plain(name), 14) for name in table]
    names = ["\n".join(line for part in p for line in textwrap.wrap(part, room, break_long_words=False)) for p in parts]
    names = [name or " " for name in names]
    slanted = len(table) > 7 or max(map(len, names), default=0) > 40
    if slanted:
        names = [textwrap.shorten(_plain(name), 24, placeholder="...") for name in table]
    rotation = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if slanted else {}
    axes.set_xticks(range(len(table)), names, **rotation)
    axes.margins(y=0.16 if shown > 14 else 0.1)
    if len(bars) > 1 or dash is not None:
        _legend(figure, axes)


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
    figure, axes = _axes(title, "", ylabel, size=(min(max(5.8, 0.24 * values.size), 12), 3.9))
    if not values.size:
        _no_data(axes)
        return _save(figure, path)
    digits = 1 if values.max() > 1.5 else 3 if values.size < 10 else 2
    number = f"{{:.{digits}f}}".format
    _bars(figure, axes, table, low_high=low_high or {}, baseline=baseline or {}, number=number, limit=40)
    return _save(figure, path)


def class_counts(counts: Mapping[str, Mapping[str, int]], path: Path, *, title: str) -> Path:
    """Examples by class (x axis) and split (colour). The scale is logarithmic where counts differ over 50 times."""
    labels = list(dict.fromkeys(label for split in counts.values() for label in split))
    table = {label: {split: values[label] for split, values in counts.items() if label in values} for label in labels}
    positive = [value for split in counts.values() for value in split.values() if value > 0]
    figure, axes = _axes(title, "", "examples", size=(min(max(5.8, 0.55 * len(labels)), 12), 3.9))
    if not positive:
        _no_data(axes)
        return _save(figure, path)
    logarithmic = max(positive) > 50 * min(positive)
    if logarithmic:  # before the bars: their labels and margins depend on the scale
        axes.set_yscale("log")
        axes.set_ylabel("examples (logarithmic)")
    _bars(figure, axes, table, low_high={}, baseline={}, number="{:,.0f}".format, limit=36)
    if logarithmic:
        axes.set_ylim(bottom=min(positive) / 2)
        axes.margins(y=0.16)
    _thousands(axes.yaxis)
    return _save(figure, path)


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
    figure, axes = _axes(title, xlabel, ylabel)
    drawn = False
    for index, (name, (x, y)) in enumerate(series.items()):
        x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
        kept = np.isfinite(x) & np.isfinite(y) & (((x > 0) & (y > 0)) if logarithmic else True)
        if not kept.any():
            continue
        drawn = True
        marker = {"marker": "os^Dv"[index % 5], "markersize": 4.5} if kept.sum() <= 20 else {}
        width = 2.2 if index == 0 else 1.5
        axes.plot(x[kept], y[kept], color=PALETTE[index % len(PALETTE)], linewidth=width, label=_plain(name), **marker)
    if not drawn:
        _no_data(axes)
        return _save(figure, path)
    for index, (name, (x, y)) in enumerate((points or {}).items()):
        axes.plot(x, y, "*Xh"[index % 3], color=INK, markersize=10, linestyle="none", label=_plain(name), zorder=5)
    if logarithmic:
        axes.set(xscale="log", yscale="log")
    if diagonal:
        low, high = (max(axes.get_xlim()[0], axes.get_ylim()[0]), min(axes.get_xlim()[1], axes.get_ylim()[1]))
        axes.plot([low, high], [low, high], color="#777777", linewidth=1.2, linestyle="--", zorder=1)
    axes.grid(axis="both", color="#E4E4E4", linewidth=0.8)
    _legend(figure, axes)
    return _save(figure, path)


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
    figure, axes = _axes(title, xlabel, ylabel)
    if not order.size:
        _no_data(axes)
        return _save(figure, path)
    low, high = np.percentile(x[order], [0.5, 99.5])
    if low == high:
        low, high = low - 1, high + 1
    seen = order[(x[order] >= low) & (x[order] <= high)]
    marker = "o" if seen.size == 1 else None
    for index, (name, values) in enumerate(series.items()):
        y = np.asarray(values, dtype=float)[seen]
        axes.plot(x[seen], y, color=PALETTE[index % len(PALETTE)], linewidth=1.8, marker=marker, label=_plain(name))
    for index, (name, at) in enumerate(marks.items()):
        label = f"{_plain(name)}: {at:.4g}"
        if low <= at <= high:
            style = ("--", ":", "-.")[index % 3]
            axes.axvline(at, color=INK, linestyle=style, linewidth=1.5, label=label)
        else:
            axes.plot([], [], " ", label=f"{label} (off the scale)")
    axes.set_xlim(low, high)
    _legend(figure, axes)
    return _save(figure, path)


def confusion_matrix(labels: Sequence[str], matrix: Sequence[Sequence[int]], path: Path, *, title: str) -> Path:
    """Counts with, below, their share of the row (the true class), which also is the colour."""
    counts = np.asarray(matrix, dtype=float).reshape(len(labels), len(labels))
    side = min(max(4.6, 1.5 + 0.62 * len(labels)), 13)
    figure, axes = _axes(title, "predicted", "true", size=(side, side * 0.92))
    axes.grid(False)
    if not len(labels):
        _no_data(axes)
        return _save(figure, path)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    small = FONT - 2 if len(labels) <= 8 else FONT - 3
    for row, column in np.argwhere(counts):  # empty cells stay empty: what is wrong stands out
        text = f"{counts[row, column]:,.0f}\n{100 * shares[row, column]:.0f} %"
        color = "white" if shares[row, column] > 0.55 else INK
        axes.text(column, row, text, ha="center", va="center", fontsize=small, color=color)
    names = [textwrap.shorten(_plain(label), 20, placeholder="...") or " " for label in labels]
    slanted = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if max(map(len, names)) > 4 else {}
    axes.set_xticks(range(len(names)), names, **slanted)
    axes.set_yticks(range(len(names)), names)
    axes.spines[:].set_visible(False)
    return _save(figure, path)
