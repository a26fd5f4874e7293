"""Reports: what a run or a study found, as one HTML page that needs nothing else, and as words.

The page of a run is made from its folder, that of a study from its findings:

    {"schema": 1, "data": {…as a run's data.json}, "n": N, "classes": K, "class_names": […],
     "settings": [{"name": "smoothing=0.1", "changes": {"smoothing": 0.1}, "seeds": [0, 1, 2],
                   "runs": [folder, …], "seconds": {"mean": …},
                   "raw": {metric: {"value", "low", "high", "per_seed": […]}},
                   "calibrated": {the same},
                   "temperature": {"value", "low", "high", "per_seed": […]}}, …],
     "differences": [{"setting", "baseline", "calibrated": bool, "metric", "value", "low",
                      "high", "words": sentence}, …],
     "recommendation": [sentence, …], "seconds": total}

A value that is null carries its "reason"; further keys are left alone, but shown where they are
there: "command", "notes" (sentences), "failed" ([{"name", "seed", "why"}]), and a difference's
"kind", which says what was compared where both stages are in it.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import math
import shlex
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from levelhead.errors import LevelheadError
from levelhead.figures.canvas import number, percent, shorten
from levelhead.recipe import Recipe
from levelhead.runs import Run, finished_run, read_json, write
from levelhead.text import columns, duration

if TYPE_CHECKING:
    from markupsafe import Markup

    from levelhead.figures.confusion import Confusion
    from levelhead.outputs import Outputs

WEAKEST = 20
"""So many classes stand in the open; the others behind a fold."""
STAGES = {"validation": "validation", "test": "test", "test_calibrated": "test, after temperature"}
_PERCENT = ("accuracy", "top5")


def write_report(folder: str | Path, images: Mapping[str, np.ndarray] | None = None) -> Path:
    """Write `report.html` into the folder of a finished run or study; returns its path.

    `images` as for `run_report`; by default the pictures are read again from the run's data.
    """
    folder = Path(folder)
    if _is_study(folder):
        page = study_report(read_json(folder / "findings.json"))
    else:
        page = run_report(folder, pictures(folder) if images is None else images)
    write(folder / "report.html", page)
    return folder / "report.html"


def write_figures(folder: str | Path, into: str | Path) -> list[Path]:
    """Write the figures of a run or study as PNG files into a folder; returns their paths."""
    from levelhead.figures import FIGURES, comparison, confusion
    from levelhead.figures.canvas import to_png

    folder, into = Path(folder), Path(into)
    panels: dict[str, tuple[Any, ...]]
    if _is_study(folder):
        panels = {"comparison": comparison.data(read_json(folder / "findings.json"))}
    else:
        run = finished_run(folder)
        test = run.outputs("test")
        panels = {
            "reliability": _reliability(run.findings, test, _after(run, test)),
            "confusion": confusion.data(test),
            "curves": _curves(run),
        }
    written = []
    for name, several in panels.items():
        for place, panel in enumerate(several, 1):
            path = into / (f"{name}-{place}.png" if several[1:] else f"{name}.png")
            write(path, to_png(panel, FIGURES[name].draw))
            written.append(path)
    return written


def run_report(folder: str | Path, images: Mapping[str, np.ndarray] | None = None) -> str:
    """The page of a finished run. Raises LevelheadError for what is missing or damaged.

    `images` holds the pictures to show by id of the test split, uint8 [H,W] or [H,W,1 or 3]
    (`pictures` finds them); those that are missing are named instead.
    """
    from levelhead.figures import confusion, samples

    run = finished_run(folder)
    recipe, data, found, test = run.recipe, run.data, run.findings, run.outputs("test")
    after = _after(run, test)
    stages = {name: found[name] for name in STAGES if found[name]}
    (matrix,) = confusion.data(test)
    lines = _curves(run)
    return _page(
        "run",
        title=f"{data['name']} · {recipe.model}",
        stages={STAGES[name]: judged for name, judged in stages.items()},
        found=found,
        data=data,
        reliability=_svgs("reliability", _reliability(found, test, after)),
        galleries=samples.data(after or test, images or {}),
        matrix=_svgs("confusion", (matrix,))[0],
        least=round(min(96 * matrix.size[0], 460)),  # px; narrower, its numbers are too small
        pairs=matrix.pairs(WEAKEST if test.classes > WEAKEST else 10),
        classes=_weakest_first(found["report"]["classes"], matrix),
        curves=list(zip(_svgs("curves", lines), lines, strict=True)),
        recipe={k: v for k, v in dataclasses.asdict(recipe).items() if v is not None},
        environment=_environment(run),
        command=command(recipe),
        again=f"levelhead report {shlex.quote(str(folder))}",
    )


def _reliability(found: Mapping[str, Any], test: Outputs, after: Outputs | None) -> tuple[Any, ...]:
    """Panels of the test split before and after the temperature."""
    from levelhead.figures import reliability

    ece = [found[name]["metrics"]["ece"] for name in ("test", "test_calibrated") if found[name]]
    return reliability.data(test, after, ece=ece)


def _after(run: Run, test: Outputs) -> Outputs | None:
    """The test outputs with the run's temperature, where it has one."""
    return run.calibration.apply(test) if run.findings["test_calibrated"] else None


def _curves(run: Run) -> tuple[Any, ...]:
    """Panels of the training's course."""
    from levelhead.figures import curves

    recipe = run.recipe
    return curves.data(
        run.history if (run.folder / "history.csv").exists() else [],
        classes=len(run.data["class_names"]),
        smoothing=recipe.smoothing,
        convention=recipe.convention,
        augmented=bool(recipe.crop or recipe.flip or recipe.cutout or recipe.window),
    )


def _is_study(folder: Path) -> bool:
    return not (folder / "recipe.toml").exists() and (folder / "findings.json").exists()


def study_report(findings: Mapping[str, Any]) -> str:
    """The page of a study, from the findings described above."""
    from levelhead.figures import comparison

    settings = findings["settings"]
    return _page(
        "study",
        title=f"{findings['data']['name']} · {len(settings)} settings",
        found=findings,
        data=findings["data"],
        metrics=[m for m in settings[0]["raw"] if _any(settings, m)] if settings else [],
        comparison=_svgs("comparison", comparison.data(findings)),
        command=findings.get("command"),
    )


def pictures(folder: str | Path) -> dict[str, np.ndarray]:
    """The test pictures that a run's report shows, by id, read again from the run's data.

    Full size, uint8 [H,W] or [H,W,3]. Empty where the data has moved: a report does without.
    """
    from levelhead import datasets
    from levelhead.datasets.decode import Broken, pixels
    from levelhead.figures import samples

    run = finished_run(folder)
    test = run.outputs("test")
    wanted = set(samples.wanted(run.calibration.apply(test)))
    found: dict[str, np.ndarray] = {}
    try:
        splits = datasets.scan(run.recipe.data).splits.values()
    except LevelheadError:
        return found
    for entries in splits:
        for i, name in enumerate(entries.ids):
            if name in wanted and name not in found:
                try:
                    if entries.images is not None:
                        found[name] = entries.images[i]
                    elif entries.read is not None:
                        found[name] = pixels(entries.read(i))
                except (OSError, Broken):
                    continue
    return found


def run_words(run: Run) -> list[str]:
    """What a person wants to read when training has ended, ending in the next command to type."""
    data, found, folder = run.data, run.findings, shlex.quote(str(run.folder))
    counts = ", ".join(f"{n:,} {name}" for name, n in data["counts"].items())
    lines = [
        f"Trained {run.recipe.model} on {data['name']}: {counts} pictures of "
        f"{len(data['class_names'])} classes, in {duration(found['seconds'] or 0)} "
        f"({found['images_per_second'] or 0:,.0f} images/s)."
    ]
    lines += [f"Note: {note}" for note in data["notes"]]
    if data["skipped"]:
        lines.append(f"Broken pictures left out, listed in data.json: {len(data['skipped'])}.")
    stages = {STAGES[name]: found[name] for name in STAGES if found[name]}
    return [
        *lines,
        *found["words"],
        "",
        *metric_table(stages).splitlines(),
        "",
        f"Report: {run.folder / 'report.html'}",
        f"Next: levelhead predict {folder} IMAGE...",
    ]


def metric_table(judgements: Mapping[str, Mapping[str, Any]]) -> str:
    """Judgements side by side as plain text, a row a metric, `value [low, high]`."""
    rows = [
        [
            _title(name),
            *(" ".join(shown(j["metrics"].get(name), name)) for j in judgements.values()),
        ]
        for name in next(iter(judgements.values()))["metrics"]
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
    if not math.isfinite(value):
        return "–", ""
    scale, unit = (100, " points" if change else " %") if metric in _PERCENT else (1, "")
    sign = "+" if change else ""
    value, low, high = value * scale, low * scale, high * scale
    if not math.isfinite(low + high):
        ends = [f"{end:{sign}.4g}" if math.isfinite(end) else "∞" for end in (low, high)]
        known = math.isfinite(low) or math.isfinite(high)
        return f"{value:{sign}.4g}{unit}", f"[{', '.join(ends)}]" if known else ""
    # One unit of the last digit is a thirtieth to a third of the interval's width.
    width = max(high - low, 1e-6)
    least = 1 if unit else 3 if metric else 0
    digits = min(max(math.ceil(-math.log10(width / 3)), least), 6)
    texts = [f"{x:{sign}.{digits}f}".replace("-", "−") for x in (value, low, high)]
    return texts[0] + unit, f"[{texts[1]}, {texts[2]}]"


def command(recipe: Recipe) -> str:
    """The command line that repeats a recipe: every field that is not its default."""
    words = ["levelhead", "train", shlex.quote(recipe.data)]
    for field in dataclasses.fields(Recipe):
        value, flag = getattr(recipe, field.name), "--" + field.name.replace("_", "-")
        if field.name == "data" or value == field.default:
            continue
        if isinstance(value, bool):
            words.append(flag if value else flag.replace("--", "--no-", 1))
        else:
            values = value if isinstance(value, tuple) else (value,)
            words += [flag, *(shlex.quote(str(part)) for part in values)]
    return " ".join(words)


def _page(kind: str, **view: Any) -> str:
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "shown": shown, "title": _title, "duration": duration, "thumbnail": _thumbnail,
        "value": _value, "percent": percent, "shorten": shorten,
        "share": lambda x: "–" if x is None else f"{100 * x:.1f}\u00a0%",
    }  # fmt: skip
    text = resources.files("levelhead").joinpath("report.html.jinja").read_text(encoding="utf-8")
    return environment.from_string(text).render(kind=kind, weakest=WEAKEST, **view)


def _svgs(name: str, panels: Sequence[Any]) -> list[Markup]:
    from markupsafe import Markup

    from levelhead.figures import FIGURES
    from levelhead.figures.canvas import to_svg

    draw = FIGURES[name].draw
    return [Markup(to_svg(panel, draw, f"{name}{i}")) for i, panel in enumerate(panels)]


def _thumbnail(image: np.ndarray) -> str:
    """A small PNG as a data URI."""
    from PIL import Image

    from levelhead.figures.samples import thumbnail

    out = io.BytesIO()
    Image.fromarray(thumbnail(image)).save(out, "png")
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def _title(metric: str) -> str:
    from levelhead.metrics import METRICS

    short = {"nll": "NLL", "ece": "ECE"}
    return short.get(metric) or (METRICS[metric].title if metric in METRICS else metric)


def _any(settings: Sequence[Mapping[str, Any]], metric: str) -> bool:
    return any((s["raw"].get(metric) or {}).get("value") is not None for s in settings)


def _weakest_first(report: Sequence[Mapping[str, Any]], matrix: Confusion) -> list[dict[str, Any]]:
    """The rows of a classification report by F1, each with what the class is taken for."""
    wrong = matrix.counts - np.diag(np.diag(matrix.counts))
    rows: list[dict[str, Any]] = []
    for k, row in enumerate(report):
        other = int(wrong[k].argmax())
        taken = matrix.class_names[other] if wrong[k, other] else None
        rows.append({**row, "taken_for": taken, "times": int(wrong[k, other])})
    return sorted(rows, key=lambda row: (row["f1"] is None, row["f1"] or 0.0))


def _environment(run: Run) -> dict[str, str]:
    path = run.folder / "environment.json"
    told = dict(read_json(path)) if path.exists() else {}
    if (seconds := told.pop("seconds", None)) is not None:
        told["training time"] = duration(seconds)
    if (rate := told.pop("images_per_second", None)) is not None:
        told["images per second"] = f"{rate:,.0f}"
    if memory := told.pop("peak_memory_bytes", None):
        told["peak memory"] = f"{memory / 1e9:.2f} GB"
    return {name: str(value) for name, value in told.items() if value is not None}


def _value(value: Any) -> str:
    """A recipe's value as a person writes it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(_value, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
