"""A page that needs nothing else, and numbers as a page or a terminal shows them."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np

from levelhead.calibrators import spoken
from levelhead.decisions.scores import sharp
from levelhead.figures.canvas import number, percent, shorten
from levelhead.text import columns, duration, interval_texts

if TYPE_CHECKING:
    from markupsafe import Markup

SMALL, LARGE = 112, 320
"""Pixels of an image's longer side on a page: up to which it is exact, and at most."""


def page(kind: str, **view: Any) -> str:
    """The template `kind`.html.jinja, filled."""
    import jinja2

    here = resources.files("levelhead.report")
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: here.joinpath(name).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "shown": shown, "title": title, "duration": duration, "thumbnail": _thumbnail,
        "value": _value, "percent": percent, "shorten": shorten, "sharp": sharp, "spoken": spoken,
        "share": lambda x: "–" if x is None else f"{100 * x:.1f}\u00a0%",
    }  # fmt: skip
    sources = [
        here.joinpath(f"{name}.html.jinja").read_text(encoding="utf-8") for name in (kind, "page")
    ]
    source = next(source for source in sources if "<script>" in source)
    script = source.partition("<script>")[2].partition("</script>")[0]
    # The content policy lets this one script run, whatever a name on the page may hold.
    hashed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    template = environment.get_template(f"{kind}.html.jinja")
    return template.render(kind=kind, script_hash=f"sha256-{hashed}", **view)


def svgs(name: str, panels: Sequence[Any]) -> list[Markup]:
    """The panels of a figure of FIGURES as drawings for a page."""
    from markupsafe import Markup

    from levelhead.figures import FIGURES
    from levelhead.figures.canvas import to_svg

    draw = FIGURES[name].draw
    return [Markup(to_svg(panel, draw, f"{name}{i}")) for i, panel in enumerate(panels)]


def metric_table(
    judgements: Mapping[str, Mapping[str, Any]], metrics: Sequence[str] | None = None
) -> str:
    """Judgements side by side as plain text, a row a metric (or those named) that has a value."""
    rows = [
        [
            title(name),
            *(" ".join(shown(j["metrics"].get(name), name)) for j in judgements.values()),
        ]
        for name in metrics or next(iter(judgements.values()))["metrics"]
        if any(j["metrics"].get(name, {}).get("value") is not None for j in judgements.values())
    ]
    header = ["95 % intervals", *(f"{name} (n = {j['n']:,})" for name, j in judgements.items())]
    return columns(header, rows)


def shown(
    cell: Mapping[str, Any] | None, metric: str = "", change: bool = False
) -> tuple[str, str]:
    """A value and its interval as text, with the digits that the interval leaves standing.

    A `change` of a metric carries its sign, and one of a share is in points.

    >>> shown({"value": 0.93391, "low": 0.92886, "high": 0.93861}, "accuracy")
    ('93.4 %', '[92.9, 93.9]')
    >>> shown({"value": None, "low": None, "high": None, "reason": "K <= 5"})
    ('–', '')
    >>> shown({"value": 0.006, "low": -0.045, "high": 0.056}, "accuracy", change=True)
    ('+0.6 points', '[−4.5, +5.6]')
    """
    value, low, high = (number((cell or {}).get(key)) for key in ("value", "low", "high"))
    from levelhead.metrics import METRICS

    share = metric in METRICS and METRICS[metric].unit == "%"
    return interval_texts(
        value,
        low,
        high,
        least=1 if share else 3 if metric else 0,
        scale=100 if share else 1,
        sign=change,
        unit=(" points" if change else " %") if share else "",
    )


def title(metric: str) -> str:
    """A metric as a heading."""
    from levelhead.metrics import METRICS

    if metric not in METRICS:
        return metric
    return METRICS[metric].heading or METRICS[metric].title


def _thumbnail(image: np.ndarray) -> str:
    """An image to press for a closer look, as a data URI: PNG up to 112 pixels, else JPEG."""
    from PIL import Image

    from levelhead.figures.samples import thumbnail

    kind = "png" if max(image.shape[:2]) <= SMALL else "jpeg"
    out = io.BytesIO()
    Image.fromarray(thumbnail(image, LARGE)).save(out, kind, quality=85)
    return f"data:image/{kind};base64," + base64.b64encode(out.getvalue()).decode()


def _value(value: Any) -> str:
    """A recipe's value as a person writes it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(_value, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
