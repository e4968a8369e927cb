"""The report's charts, drawn as SVG that takes its colours from the page: histograms, bubbles, a flow, a heat map.

Charts are drawn about as wide as they are shown on a phone and in a column of three, so that their letters keep their
size. All text is escaped.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape

import numpy as np

WIDTH, HEIGHT = 340, 176
LEFT, RIGHT, TOP, BOTTOM = 38, 10, 8, 24  # margins around the plotted area
BINS = 32
WIDEST = 32  # pixels of a bar
Format = Callable[[float], str]


@dataclass(frozen=True)
class Axis:
    """Maps values to [0, 1]; `log` by their logarithm."""

    low: float
    high: float
    log: bool = False

    def place(self, value: float | np.ndarray) -> np.ndarray:
        low, high, at = (np.log(v) if self.log else np.asarray(v, float) for v in (self.low, self.high, value))
        return (at - low) / (high - low)

    def edges(self, count: int) -> np.ndarray:
        space = np.geomspace if self.log else np.linspace
        return space(self.low, self.high, count + 1)

    def ticks(self) -> list[float]:
        """Round values, three to seven of them, or powers of two or ten."""
        if not self.log:
            return nice_ticks(self.low, self.high)
        for base in (2, 4, 10, 100):
            powers = np.arange(np.ceil(np.log(self.low) / np.log(base)), np.log(self.high) / np.log(base) + 1e-9)
            if len(powers) <= 7:
                return [float(base) ** float(power) for power in powers]
        return [self.low, self.high]


def nice_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """At most `most` multiples of 1, 2 or 5 times a power of ten, between `low` and `high`."""
    power = 10.0 ** np.floor(np.log10((high - low) / most))
    step = next(s * power for s in (1, 2, 5, 10, 20) if (high - low) / (s * power) <= most - 1 + 1e-9)
    return [round(float(k * step), 10) for k in range(int(np.ceil(low / step)), int(np.floor(high / step + 1e-9)) + 1)]


def short(value: float) -> str:
    """12000 as 12k, 0.25 as 0.25."""
    if abs(value) >= 1e6:
        return f"{value / 1e6:.3g}M"
    return f"{value / 1e3:.3g}k" if abs(value) >= 10_000 else f"{value:g}"


def whole(value: float) -> str:
    """12000 as 12k, and nothing for what is no whole number."""
    return short(value) if float(value).is_integer() else ""


def ratio(value: float) -> str:
    """0.25 as 1:4."""
    return f"{value:g}:1" if value >= 1 else f"1:{1 / value:g}"


def svg(body: str, width: int, height: int, label: str, name: str = "") -> str:
    """An SVG element that fills its container's width."""
    return f'<svg class="{name}" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">{body}</svg>'


def _text(x: float, y: float, words: str, anchor: str = "middle", name: str = "") -> str:
    mark = f' class="{name}"' if name else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{mark}>{escape(words)}</text>'


def _frame(x: Axis, y: Axis, x_format: Format, y_format: Format) -> str:
    """Grid lines and numbers along both axes."""
    parts = []
    for tick in y.ticks():
        at = HEIGHT - BOTTOM - float(y.place(tick)) * (HEIGHT - TOP - BOTTOM)
        parts.append(f'<path class="grid" d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(_text(LEFT - 6, at + 4, y_format(tick), "end"))
    for tick in x.ticks():
        at = LEFT + float(x.place(tick)) * (WIDTH - LEFT - RIGHT)
        parts.append(f'<path class="tick" d="M{at:.1f} {HEIGHT - BOTTOM}v4"/>')
        parts.append(_text(at, HEIGHT - 6, x_format(tick)))
    return "".join(parts)


def histogram(values: np.ndarray, axis: Axis, label: str, x_format: Format = short, bins: int = BINS) -> str:
    """How many of `values` lie in each of `bins` equal parts of the axis; those beyond its ends are in the end bins."""
    edges = axis.edges(bins)
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    y = Axis(0, max(1, int(counts.max())))
    parts = [_frame(axis, y, x_format, whole)]
    step = (WIDTH - LEFT - RIGHT) / bins
    for k, count in enumerate(counts):
        if count:
            tall = max(1.5, float(y.place(count)) * (HEIGHT - TOP - BOTTOM))
            width = min(WIDEST, max(1.0, step - (1.5 if step > 5 else 0.5)))
            at = LEFT + (k + 0.5) * step - width / 2
            told = f"{edges[k]:.3g} to {edges[k + 1]:.3g}: {count:,}"
            parts.append(
                f'<rect class="bar" x="{at:.1f}" y="{HEIGHT - BOTTOM - tall:.1f}" width="{width:.1f}" '
                f'height="{tall:.1f}" rx="1"><title>{told}</title></rect>'
            )
    return svg("".join(parts), WIDTH, HEIGHT, label)


def whole_numbers(values: np.ndarray, label: str) -> str:
    """A histogram of counts: a bar for each number, or for each of equal ranges where there are many."""
    most = int(values.max())
    width = max(1, -(-(most + 1) // 40))
    bins = -(-(most + 1) // width)
    return histogram(values, Axis(-0.5, bins * width - 0.5), label, whole, bins)


def bubbles(x: np.ndarray, y: np.ndarray, label: str, cells: int = 40) -> str:
    """How often each place of a plane occurs, as circles whose area grows with the count; equal scales from 0."""
    axis_x, axis_y = Axis(0, float(x.max()) * 1.08), Axis(0, float(y.max()) * 1.12)
    snapped = [np.floor(axis.place(v) * cells * 0.99999) for axis, v in ((axis_x, x), (axis_y, y))]
    keys, inverse, counts = np.unique(snapped[0] * cells + snapped[1], return_inverse=True, return_counts=True)
    middle_x, middle_y = np.bincount(inverse, x) / counts, np.bincount(inverse, y) / counts
    parts = [_frame(axis_x, axis_y, short, short)]
    for k in np.argsort(-counts):
        cx = LEFT + float(axis_x.place(middle_x[k])) * (WIDTH - LEFT - RIGHT)
        cy = HEIGHT - BOTTOM - float(axis_y.place(middle_y[k])) * (HEIGHT - TOP - BOTTOM)
        radius = 2 + 12 * float(np.sqrt(counts[k] / counts.max())) * (1 if len(keys) < 40 else 0.6)
        told = f"about {middle_x[k]:.0f} x {middle_y[k]:.0f}: {counts[k]:,}"
        parts.append(
            f'<circle class="bubble" cx="{cx:.1f}" cy="{cy:.1f}" r="{radius:.1f}"><title>{told}</title></circle>'
        )
    return svg("".join(parts), WIDTH, HEIGHT, label)


def heat(shares: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """float [H, W] as uint8 [H, W, 4]: one colour, the more opaque the larger the share."""
    alpha = shares / max(float(shares.max()), 1e-12)
    return np.dstack([np.full(shares.shape, c, np.uint8) for c in colour] + [np.rint(alpha * 255).astype(np.uint8)])


@dataclass
class Node:
    """A part of a flow: column 0, 1, …; size; the CSS class that colours it."""

    name: str
    column: int
    size: int
    kind: str
    y: float = 0.0
    height: float = 0.0
    used: dict[str, float] = field(default_factory=lambda: {"in": 0.0, "out": 0.0})


def flow(nodes: Sequence[Node], links: Sequence[tuple[int, int, int]], width: int, name: str) -> str:
    """Bands as thick as what flows (Sankey diagram), from column to column; nodes of size 0 are left out.

    links: (from, to, size) by node index, none of size 0.
    """
    shown = [node for node in nodes if node.size]
    total = sum(node.size for node in shown if node.column == 0)
    columns = 1 + max(node.column for node in nodes)
    height = _stack(shown, columns, total)
    step, thick = (width - 10) / max(1, columns - 1), 10
    parts = []
    for one, other, size in links:
        start, end = nodes[one], nodes[other]
        y0, y1 = start.y + start.used["out"], end.y + end.used["in"]
        out, into = (size / node.size * node.height for node in (start, end))
        start.used["out"] += out
        end.used["in"] += into
        x0, x1 = start.column * step + thick, end.column * step
        bend = (x0 + x1) / 2
        d = (
            f"M{x0:.1f} {y0:.1f}C{bend:.1f} {y0:.1f} {bend:.1f} {y1:.1f} {x1:.1f} {y1:.1f}v{into:.2f}"
            f"C{bend:.1f} {y1 + into:.1f} {bend:.1f} {y0 + out:.1f} {x0:.1f} {y0 + out:.1f}Z"
        )
        told = escape(f"{start.name} to {end.name}: {size:,}")
        parts.append(f'<path class="band {end.kind}" d="{d}"><title>{told}</title></path>')
    for node in shown:
        x = node.column * step
        place = f'x="{x:.1f}" y="{node.y:.1f}" width="{thick}" height="{node.height:.1f}" rx="2"'
        parts.append(f'<rect class="node {node.kind}" {place}/>')
        before = node.column == columns - 1 or (node.column and node.kind == "rejected")
        at, anchor = (x - 6, "end") if before else (x + thick + 6, "start")
        parts.append(_text(at, node.y + node.height / 2 + 4, f"{node.name} {node.size:,}", anchor, "halo"))
    return svg("".join(parts), width, round(height), "where every image went", f"flow {name}")


def _stack(nodes: Sequence[Node], columns: int, total: int, tall: float = 200, line: float = 20) -> float:
    """Set each node's y and height, a line of text apart at least; returns the height of all."""
    bottoms = []
    for column in range(columns):
        y = 4.0
        for node in (node for node in nodes if node.column == column):
            node.height = max(2.0, node.size / total * tall)
            room = max(node.height, line)
            node.y = y + (room - node.height) / 2
            y += room + 6
        bottoms.append(y)
    return max(bottoms)
