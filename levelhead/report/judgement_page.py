"""Pages of judgements: an audit, a calibration, and decisions on anyone's predictions.

Figures are named panels, made once: the page draws them as SVG, `write_panels` as PNG and SVG.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from levelhead.decisions import SCORES, risk_coverage
from levelhead.figures import FIGURES, confusion, write_panels
from levelhead.files import write
from levelhead.judging import Audited, Calibrated, Decided, Versus
from levelhead.metrics import HEADLINE, METRICS
from levelhead.outputs import Outputs
from levelhead.report.next_steps import Step
from levelhead.report.page import page, shown, svgs
from levelhead.report.run_page import WEAKEST, weakest_first
from levelhead.statistics.multiplicity import missing_by_chance
from levelhead.text import columns

Panels = dict[str, tuple[Any, ...]]
CURVES = ("msp", "margin", "entropy", "pnorm")
RELATIONS = {"before": "as given", "after": "after calibration"}


Judgement = Audited | Calibrated | Decided | Versus


def write_judgement(
    result: Judgement,
    folder: str | Path,
    *,
    title: str = "predictions",
    command: str = "",
    steps: Sequence[Step] = (),
    figures: bool = False,
) -> Path:
    """Write report.html of an audit, a calibration, decisions or a comparison; returns its path.

    `command` is what made it, to be shown, `steps` what to do next; with `figures` also figures/,
    as PNG and SVG.
    """
    folder = Path(folder)
    if isinstance(result, Audited):
        panels = audit_panels(result)
        page = audit_report(result, panels, title, command, steps)
    elif isinstance(result, Calibrated):
        panels = calibration_panels(result.test, result.outputs, result.findings)
        page = calibration_report(result.findings, panels, title, command, steps)
    elif isinstance(result, Versus):
        panels = {}
        first, second = result.findings["names"]
        page = versus_report(result.findings, f"{second} against {first}", command)
    else:
        panels = decision_panels(result)
        page = decision_report(result.findings, panels, title, command, steps)
    write(folder / "report.html", page)
    if figures:
        write_panels(panels, folder / "figures")
    return folder / "report.html"


def audit_report(
    result: Audited, panels: Panels, name: str, command: str, steps: Sequence[Step] = ()
) -> str:
    """The page of an audit, with its panels."""
    outputs, findings = result.outputs, result.findings
    (matrix,) = confusion.data(outputs)
    return page(
        "audit",
        title=name,
        found=findings,
        drawings=_drawings(panels),
        least=round(min(96 * matrix.size[0], 460)),  # px; narrower, its numbers are too small
        pairs=matrix.pairs(WEAKEST if outputs.classes > WEAKEST else 10),
        classes=weakest_first(findings["report"]["classes"], outputs),
        weakest=WEAKEST,
        headline=HEADLINE,
        metrics=METRICS,
        scores=SCORES,
        kind_of=outputs.kind,
        by_chance=missing_by_chance(
            sum(m["low"] is not None for m in findings["metrics"].values())
        ),
        command=command,
        steps=steps,
    )


def audit_panels(result: Audited) -> Panels:
    """The figures of an audit."""
    outputs, found, after = result.outputs, result.findings, result.after
    method = found["advice"]["method"]
    titles = ("As given", f"With {(method or '').replace('_', ' ')} calibration, cross-fitted")
    ece = [found["metrics"]["ece"]]
    if after is not None:
        ece.append(found["advice"]["after"]["ece"])
    drawn = {"reliability": FIGURES["reliability"].data(outputs, after, titles, ece=ece)}
    for figure in ("confidence", "cumulative", "classwise", "heatmap"):
        drawn[figure] = FIGURES[figure].data(outputs)
    errors = 1 - outputs.rows.correct
    curves = {
        SCORES[n].title: risk_coverage(SCORES[n].of(outputs), errors)
        for n in CURVES
        if not SCORES[n].missing(outputs)
    }
    drawn["risk_coverage"] = FIGURES["risk_coverage"].data(curves, _marks(found["selective"]))
    drawn["confusion"] = confusion.data(outputs, ordered=True)
    return drawn


def calibration_report(
    findings: Mapping[str, Any], panels: Panels, name: str, command: str, steps: Sequence[Step] = ()
) -> str:
    """The page of a calibration: what `judging.calibrate` found."""
    return page(
        "calibration",
        title=name,
        found=findings,
        drawings=_drawings(panels),
        headline=HEADLINE,
        metrics=METRICS,
        command=command,
        steps=steps,
    )


def calibration_panels(before: Outputs, after: Outputs, found: Mapping[str, Any]) -> Panels:
    """The figures of a calibration."""
    if found["method"] == "none":
        return {"reliability": FIGURES["reliability"].data(before)}
    titles = ("Before", f"After {found['method'].replace('_', ' ')} calibration")
    ece = [found[stage]["metrics"]["ece"] for stage in RELATIONS]
    drawn = {"reliability": FIGURES["reliability"].data(before, after, titles, ece=ece)}
    for figure in ("confidence", "cumulative"):
        both = zip(titles, (before, after), strict=True)
        drawn[figure] = tuple(FIGURES[figure].data(o, title)[0] for title, o in both)
    return drawn


def decision_report(
    findings: Mapping[str, Any], panels: Panels, name: str, command: str, steps: Sequence[Step] = ()
) -> str:
    """The page of decisions: what `judging.decide` found."""
    return page(
        "decision",
        title=name,
        found=findings,
        drawings=_drawings(panels),
        command=command,
        steps=steps,
    )


def decision_panels(decided: Decided) -> Panels:
    """The figures of decisions, on the test outputs."""
    findings = decided.findings
    curves = {
        findings["scores"][name]["title"]: risk_coverage(certainty, decided.errors)
        for name, certainty in decided.certainty.items()
    }
    best = findings["threshold"]
    share = best["test"]["coverage"]["value"]
    marks = {f"{(1 - best['set']['risk_wanted']) * 100:g} % precision": share} if share else {}
    drawn = {"risk_coverage": FIGURES["risk_coverage"].data(curves, marks)}
    if findings["conformal"] is not None:
        drawn["coverage"] = ()
        for ways, sets in _different(findings["conformal"]):
            classes = sets["test"]["by_class"]
            counts = [row["n"] for row in classes]
            hits = [round(row["coverage"]["value"] * row["n"]) for row in classes]
            names = [row["name"] for row in classes]
            arguments = (names, hits, counts, sets["test"]["wanted"])
            drawn["coverage"] += FIGURES["coverage"].data(
                *arguments, title=f"{' and '.join(ways)}, by class"
            )
    return drawn


def _different(conformal: Mapping[str, Any]) -> list[tuple[list[str], Mapping[str, Any]]]:
    """Methods whose sets cover every class alike, together: RAPS is APS where sets are small."""
    groups: list[tuple[list[str], Mapping[str, Any]]] = []
    for way, sets in conformal.items():
        classes = sets["test"]["by_class"]
        alike = next((ways for ways, other in groups if other["test"]["by_class"] == classes), None)
        if alike is None:
            groups.append(([way.upper()], sets))
        else:
            alike.append(way.upper())
    return groups


def versus_report(found: Mapping[str, Any], name: str, command: str) -> str:
    """The page of two models on the same examples."""
    return page("versus", title=name, found=found, metrics=METRICS, command=command)


def versus_table(found: Mapping[str, Any]) -> str:
    """Two models and their difference as plain text, a row a metric."""
    first, second = found["names"]
    rows = []
    for name, entry in found["metrics"].items():
        sides = (" ".join(shown(entry[side], name)) for side in ("first", "second"))
        change = " ".join(shown(entry["difference"], name, True))
        rows.append([METRICS[name].title, *sides, change, entry["verdict"]])
    header = ["95 % intervals", first, second, "second − first, paired", ""]
    return columns(header, rows)


def ranking_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The ranking of calibrators as plain text."""
    lines, without = [], []
    for row in rows:
        name = "as it is" if row["method"] == "none" else row["method"].replace("_", " ")
        if row["reason"]:
            without.append(f"{name}: {row['reason'].removeprefix(name + ': ')}")
        else:
            change = " ".join(shown(row["against_temperature"], "nll", True))
            nll = " ".join(shown(row["nll"], "nll"))
            lines.append([name, nll, change, f"{row['ece']:.4f}", _count(row["parameters"])])
    header = ["held-out folds", "NLL", "against temperature", "ECE", "numbers"]
    return "\n".join([columns(header, lines), *without])


def _count(number: int | None) -> str:
    return "–" if number is None else f"{number:,}"


def _drawings(panels: Panels) -> dict[str, list[Any]]:
    return {name: svgs(name, several) for name, several in panels.items()}


def _marks(selective: Mapping[str, Any]) -> dict[str, float]:
    """At most three thresholds that keep something, by precision."""
    kept = [t for t in selective["thresholds"] if t["keeps"] == "some"]
    return {f"{(1 - t['risk_wanted']) * 100:g} % precision": t["coverage"] for t in kept[-3:]}
