"""The same quantity of the same runs, by every route that prints it."""

from __future__ import annotations

import functools
import json
import re
import shutil
from pathlib import Path

import pytest

from levelhead.judging import run_findings
from levelhead.papers import followups, mueller2019, xia2025
from levelhead.papers.plan import settings
from levelhead.recipe import Recipe
from levelhead.runs import runs_of
from levelhead.studies import distillation_curves, tradeoff
from levelhead.studies.compare import compare
from levelhead.training import train

RECIPE = Recipe("digits", model="linear", epochs=2, precision="float32")
ENDS = ("value", "low", "high")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hard targets with seeds 0, 1, 2; smoothing 0.3 with 0 and 1; a student of each seed 0."""
    root = tmp_path_factory.mktemp("one")
    quick = functools.partial(run_findings, resamples=64)  # whatever the draws, they are shared
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("levelhead.training.run.run_findings", quick)
        _train(root)
    return root


def _train(root: Path) -> None:
    compare(RECIPE, {"smoothing": [0.0, 0.3]}, seeds=3, out=root / "study")
    shutil.rmtree(root / "study" / "smoothing=0.3" / "seed-2")
    for epsilon in ("0", "0.3"):
        teacher = str(root / "study" / f"smoothing={epsilon}" / "seed-0")
        train(RECIPE.replace(teacher=teacher, model="mlp"), out=root / f"student-{epsilon}")


def numbers(entry: dict[str, object], scale: float = 1.0) -> list[float]:
    """Value, low and high."""
    return [scale * float(str(entry[end])) for end in ENDS]


def test_a_difference_is_the_same_number_everywhere(study: Path):
    """Two pages would print two numbers for one quantity, as they once did."""
    runs = runs_of([study / "study"])
    found = compare_again(study)
    changes = {
        d["metric"]: d for d in found["differences"] if d["kind"] == "raw" and len(d["per_seed"])
    }
    assert len(changes["accuracy"]["per_seed"]) == 2, "seed 2 has no partner"
    trade = {
        (d["measure"], d["series"], d["against"]): d for d in tradeoff(runs).findings["differences"]
    }
    students = [study / "student-0", study / "student-0.3"]
    curves = distillation_curves([*runs, *runs_of(students)]).findings
    (teachers,) = curves["teachers_gain"]
    accuracy = numbers(changes["accuracy"])
    assert numbers(trade["accuracy", "raw", "raw"]) == pytest.approx(accuracy, abs=1e-12)
    assert numbers(teachers) == pytest.approx(accuracy, abs=1e-12)
    assert teachers["n_seeds"] == 2
    by_epsilon = settings(study / "study")
    hard, smoothed = by_epsilon[0.0], by_epsilon[0.3]
    pair_of_settings = followups.estimates(hard), followups.estimates(smoothed)
    row = followups.difference_row(followups.ACCURACY, "a", *pair_of_settings)
    assert [row.value, row.low, row.high] == pytest.approx([100 * x for x in accuracy], abs=1e-9)
    change = mueller2019.accuracy_difference(smoothed, hard)
    assert [change.value, change.low, change.high] == pytest.approx(accuracy, abs=1e-12)
    nll = numbers(changes["nll"])
    row = followups.difference_row(followups.NLL, "a", *pair_of_settings)
    assert [row.value, row.low, row.high] == pytest.approx(nll, abs=1e-9)
    words = {d["verdict"] for d in (trade["accuracy", "raw", "raw"], teachers)}
    assert len(words) == 1
    assert f": {words.pop()}." in changes["accuracy"]["words"]
    aurc = [r for r in xia2025.aurc_rows(study / "study", "a") if "minus 0, top softmax" in r.what]
    trade_aurc = numbers(trade["aurc", "raw", "raw"], 100)
    assert [aurc[0].value, aurc[0].low, aurc[0].high] == pytest.approx(trade_aurc, abs=1e-9)


def test_a_mean_is_the_same_number_everywhere(study: Path):
    """Accuracy's interval over seeds had three formulas."""
    runs = runs_of([study / "study"])
    (hard,) = (s for s in compare_again(study)["settings"] if s["name"] == "smoothing=0")
    trade = tradeoff(runs).findings["settings"][0]
    students = runs_of([study / "student-0", study / "student-0.3"])
    curves = distillation_curves([*runs, *students]).findings["curves"]
    (point,) = (p for p in curves[0]["points"] if p["epsilon"] == 0)
    accuracy = numbers(hard["raw"]["accuracy"])
    assert numbers(trade["measures"]["accuracy"]["raw"]) == pytest.approx(accuracy, abs=1e-12)
    assert numbers(point) == pytest.approx(accuracy, abs=1e-12)
    named = {"ε = 0": followups.estimates(settings(study / "study")[0.0])}
    rows = {row.what: row for row in followups.value_rows(named)}
    row = rows["accuracy %, ε = 0"]
    assert [row.value, row.low, row.high] == pytest.approx([100 * x for x in accuracy], abs=1e-9)
    nll = numbers(hard["calibrated"]["nll"])
    assert numbers(trade["measures"]["nll"]["temperature"]) == pytest.approx(nll, abs=1e-12)
    row = rows["NLL after T, ε = 0"]
    assert [row.value, row.low, row.high] == pytest.approx(nll, abs=1e-12)


def compare_again(study: Path) -> dict[str, object] | dict[str, list[dict[str, object]]]:
    """The findings of the study as it is: one seed is missing, and stays so."""
    late: dict[str, object] = {"out": study / "study", "seeds": 3, "deadline": float("-inf")}
    return compare(RECIPE, {"smoothing": [0.0, 0.3]}, **late).findings  # type: ignore[arg-type]


def test_the_committed_pages_agree():
    """A reader of two pages would find two numbers for the teachers of one study."""
    docs = Path(__file__).parents[2] / "docs"
    rows = {}
    for paper, experiment in (("mueller2019", "figure5"), ("followups", "tradeoff")):
        findings = json.loads((docs / paper / "findings.json").read_text(encoding="utf-8"))
        rows[paper] = {r["what"]: r for r in findings["experiments"][experiment]["rows"]}
    shared = 0
    for what, row in rows["mueller2019"].items():
        if match := re.fullmatch(r"teacher accuracy %, ε (\S+) minus 0", what):
            other = rows["followups"][f"accuracy %: ε = {match[1]} minus hard"]
        elif match := re.fullmatch(
            r"accuracy %, students of ε (\S+) at T = (\d) minus those of ε 0 at equal T", what
        ):
            epsilon, temperature = match.groups()
            name = f"accuracy of students %, T = {temperature}: ε = {epsilon} minus hard"
            other = rows["followups"][name]
        else:
            continue
        shared += 1
        assert [row[end] for end in ENDS] == pytest.approx([other[end] for end in ENDS]), what
    assert shared == 9
