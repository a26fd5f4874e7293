"""From a panel's numbers to an SVG for a page or a PNG for a document, without pyplot.

The colours are Okabe and Ito's (2008), told apart by every kind of colour vision. An inline SVG
takes them from CSS variables, so that one drawing serves a light page, a dark one and paper.
There, what has been given a `tip` shows its numbers under the pointer.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, GRID = "#1b1f24", "#5b6570", "#dde2e7"
BLUE, VERMILLION, GREEN = "#0072b2", "#d55e00", "#009e73"
PURPLE, ORANGE = "#cc79a7", "#e69f00"
VARIABLES = {
    INK: "--ink", MUTED: "--muted", GRID: "--grid", PURPLE: "--purple", ORANGE: "--orange",
    BLUE: "--blue", VERMILLION: "--vermillion", GREEN: "--green",
}  # fmt: skip
_TIP = "tip|"
_STYLE: dict[Any, Any] = {
    "font.family": ["DejaVu Sans"], "font.size": 9, "text.parse_math": False, "text.color": INK,
    "axes.titlesize": 10, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "axes.titlepad": 8, "axes.labelsize": 9, "axes.labelcolor": INK, "axes.edgecolor": MUTED,
    "axes.linewidth": 0.8, "axes.spines.top": False, "axes.spines.right": False,
    "axes.axisbelow": True, "axes.formatter.use_mathtext": False, "grid.color": GRID,
    "grid.linewidth": 0.7, "xtick.color": MUTED, "ytick.color": MUTED, "xtick.labelcolor": INK,
    "ytick.labelcolor": INK, "xtick.labelsize": 8.5, "ytick.labelsize": 8.5,
    "legend.frameon": False, "legend.fontsize": 8.5, "lines.linewidth": 1.8,
    # Text stays text (any script, found by search); ids depend on the drawing alone.
    "svg.fonttype": "none", "svg.hashsalt": "levelhead",
}  # fmt: skip


class Panel(Protocol):
    """What `data` of a figure gives: the numbers of one pair of axes."""

    @property
    def size(self) -> tuple[float, float]: ...  # inches
    @property
    def label(self) -> str: ...  # what the drawing shows, for those who cannot see it


def to_svg(panel: Panel, draw: Callable[[Any, Axes], None], key: str) -> str:
    """An `<svg>` element for an HTML page; `key` makes its ids unique there. Reproducible."""
    with _painted(panel, draw) as figure:
        out = io.StringIO()
        nothing: dict[str, Any] = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(out, format="svg", transparent=True, metadata=nothing)
    svg = out.getvalue()
    svg = re.sub(r"<(metadata|style).*?</\1>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r"<[^>]+>", lambda tag: _tag(tag.group(), key), svg)
    svg = re.sub(r"\s*\n\s*", "\n", svg)
    head = f'<svg role="img" aria-label="{escape(panel.label)}" '
    style = (
        "stroke-linejoin:round;stroke-linecap:butt;font-family:system-ui,'DejaVu Sans',sans-serif"
    )
    return svg.replace("<svg ", f'{head}style="{style}" ', 1)


def to_png(panel: Panel, draw: Callable[[Any, Axes], None], dpi: int = 160) -> bytes:
    """The bytes of a PNG on white paper."""
    with _painted(panel, draw) as figure:
        out = io.BytesIO()
        figure.savefig(out, format="png", dpi=dpi, facecolor="white", metadata={"Software": None})
    return out.getvalue()


def tip(artist: Artist, text: str) -> None:
    """Let an SVG show `text` while the pointer is on what `artist` draws; a PNG is unchanged."""
    artist.set_gid(_TIP + text)  # its only way into the file; `_tag` makes a <title> of it


def tips(axes: Axes, x: np.ndarray, y: np.ndarray, texts: Sequence[str], most: int = 30) -> None:
    """Tips along a curve [points]: invisible spots, wider than the line, on at most `most`."""
    for i in np.unique(np.linspace(0, len(x) - 1, min(len(x), most)).astype(int)).tolist():
        (spot,) = axes.plot(x[i], y[i], "o", color=INK, alpha=0, markersize=13, zorder=9)
        tip(spot, texts[i])


def shorten(name: str, limit: int = 18) -> str:
    """A class name that fits a tick.

    >>> shorten("a very  long name of class 17")
    'a very long…ass 17'
    """
    name = " ".join(name.split())
    if len(name) <= limit:
        return name
    tail = limit // 3
    return name[: limit - tail - 1] + "…" + name[-tail:]


def percent(share: float, _: object = None) -> str:
    r"""A share as a tick or caption; what is not quite everything is not called 100 %.

    >>> percent(0.125), percent(0.99996), percent(1.0)
    ('12.5\xa0%', '>99.9\xa0%', '100\xa0%')
    """
    if 0.9995 <= share < 1:
        return ">99.9\u00a0%"
    return f"{round(100 * share, 1):g}\u00a0%"


def number(value: object) -> float:
    """A number of a JSON file; NaN for null."""
    return float(value) if isinstance(value, int | float) else math.nan


@contextmanager
def _painted(panel: Panel, draw: Callable[[Any, Axes], None]) -> Iterator[Figure]:
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        # A script that the measuring font lacks is drawn by the browser's own fonts.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support")
        figure = Figure(figsize=panel.size, layout="constrained")
        FigureCanvasAgg(figure)
        draw(panel, figure.add_subplot())
        yield figure


def _tag(tag: str, key: str) -> str:
    if tag.startswith((f'<g id="{_TIP}', f"<g id='{_TIP}")):  # ' where the text holds "
        return f"<g><title>{tag[len(_TIP) + 7 : -2]}</title>"
    # Finer than a hundredth of a point is seen nowhere, and what nobody asks for is half the file.
    tag = re.sub(r"(\.\d\d)\d+", r"\1", tag)
    tag = re.sub(r'(?<=<g) id="(?:text|patch|line2d)_\d+"| transform="rotate\(-0[^"]*"', "", tag)
    tag = re.sub(r'\bid="([^"]+)"', rf'id="{key}-\1"', tag)
    tag = re.sub(r'(url\(#|href="#)', rf"\g<1>{key}-", tag)
    return re.sub(r'style="[^"]*"', lambda style: _themed(style.group()), tag)


def _themed(style: str) -> str:
    for colour, variable in VARIABLES.items():
        style = style.replace(colour, f"var({variable},{colour})")
    return re.sub(r"font-family: [^;\"]*;? ?", "", style)
