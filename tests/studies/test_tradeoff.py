"""What smoothing buys and costs: the numbers, their intervals, the words and the figure."""

from __future__ import annotations

import functools
import itertools
import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import roc_auc_score

from levelhead.cli import run as cli
from levelhead.data.corruptions import AMOUNTS, corrupt
from levelhead.errors import LevelheadError
from levelhead.figures import FIGURES
from levelhead.figures.canvas import _painted, to_png, to_svg
from levelhead.metrics import METRICS
from levelhead.metrics.metric import influence_of
from levelhead.outputs import Outputs
from levelhead.recipe import Recipe
from levelhead.runs import Run, runs_of
from levelhead.studies import run_data, tradeoff
from levelhead.studies.confidence_course import confidence_course
from levelhead.studies.qualities import apart
from levelhead.studies.tradeoff import MEASURES, _settings
from levelhead.training import run as training
from levelhead.training.run import train
from levelhead.training.run_data import stratified
from worlds import half_over_seeds, replicates

RECIPE = Recipe("digits", model="mlp", epochs=1, device="cpu", test=0.4)
MADE = [
    ("smoothing=0", {}),
    ("smoothing=0.3", {"smoothing": 0.3}),
    ("loss=maxsup", {"loss": "maxsup"}),
]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two settings with two seeds, a remedy with one, and two students."""
    root = tmp_path_factory.mktemp("tradeoff")
    quick = functools.partial(training.run_findings, resamples=64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "run_findings", quick)
        _train(root)
    return root


def _train(root: Path) -> None:
    for name, changes in MADE:
        for seed in (0, 1)[: 1 if "loss" in changes else 2]:
            recipe = RECIPE.replace(**changes, seed=seed)
            train(recipe, root / "study" / name / f"seed-{seed}")
    for name in ("smoothing=0", "smoothing=0.3"):
        teacher = str(root / "study" / name / "seed-0")
        taught = RECIPE.replace(model="linear", teacher=teacher)
        train(taught, root / "students" / name / "seed-0")


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Another data set, in colour and of another size."""
    path = tmp_path_factory.mktemp("data") / "noise.npz"
    draw = np.random.default_rng(0)
    names = {"train": 40, "test": 60}
    arrays = {
        f"x_{n}": draw.integers(0, 256, (k, 12, 12, 3), dtype=np.uint8) for n, k in names.items()
    }
    arrays |= {f"y_{n}": np.arange(k) % 20 for n, k in names.items()}  # more classes than digits
    np.savez(path, **arrays)
    return str(path)


@pytest.fixture(scope="module")
def found(study: Path, elsewhere: str) -> dict[str, Any]:
    """The findings on all of that."""
    runs, students = runs_of([study / "study"]), runs_of([study / "students"])
    return tradeoff(runs, [elsewhere], students).findings


def cell(found: dict[str, Any], setting: str, measure: str, series: str) -> dict[str, Any]:
    """One number."""
    (told,) = (s for s in found["settings"] if s["name"] == setting)
    return told["measures"][measure][series]


def test_settings_are_recipes_without_their_seed(found):
    """Seeds would be spread over settings, or a remedy be drawn on the curve of epsilon."""
    told = [(s["name"], s["smoothing"], s["remedy"], s["seeds"]) for s in found["settings"]]
    assert told == [
        ("ε = 0", 0, False, [0, 1]),
        ("ε = 0.3", 0.3, False, [0, 1]),
        ("maxsup", 0, True, [0]),
    ]
    assert found["hard"] == "ε = 0"
    json.dumps(found, allow_nan=False)


def test_what_is_a_remedy():
    """Mixed images or another loss would pass for hard targets, or a path be a name."""
    changes: list[dict[str, Any]] = [
        {"mix": "mixup"}, {"loss": "mbls", "margin": 6.0}, {},
        {"smoothing": 0.2}, {"smoothing": 0.1},
        {"teacher": "a/smoothing=0/seed-0"}, {"teacher": "a/smoothing=0/seed-1", "seed": 1},
    ]  # fmt: skip
    runs: list[Any] = [SimpleNamespace(recipe=RECIPE.replace(**c), folder="run") for c in changes]
    told = [(s.name, s.remedy, [*s.runs]) for s in _settings(runs)]
    assert told == [
        ("ε = 0", False, [0]),
        ("ε = 0.1", False, [0]),
        ("ε = 0.2", False, [0]),
        ("mbls, margin=6.0", True, [0]),
        ("mix=mixup", True, [0]),
        ("teacher=smoothing=0", True, [0, 1]),
    ]
    assert _settings(runs[:1])[0].remedy


def test_numbers_are_those_of_the_runs(found, study):
    """The table would hold other numbers than the runs' own judgement and plain formulas."""
    runs = [Run(study / "study" / "smoothing=0.3" / f"seed-{seed}") for seed in (0, 1)]
    for series, stage in (("raw", "test"), ("temperature", "test_calibrated")):
        for measure in ("nll", "smece", "aurc"):
            wanted = [run.findings[stage]["metrics"][measure]["value"] for run in runs]
            assert cell(found, "ε = 0.3", measure, series)["per_seed"] == wanted
    run = Run(study / "study" / "loss=maxsup" / "seed-0")
    own = run.findings["test"]["metrics"]["smece"]
    told = cell(found, "maxsup", "smece", "raw")  # one seed: the examples' interval, as it is
    assert [told[e] for e in ("value", "low", "high")] == pytest.approx([*own.values()])
    test, data = run.outputs("test"), run_data(run)
    areas, hits, network = [], [], run.network()
    chosen = stratified(test.labels.numpy(), 2000)
    for kind in AMOUNTS:
        pictures = torch.from_numpy(corrupt(data.test.images[chosen], kind))
        with torch.no_grad():
            logits = network(pictures.permute(0, 3, 1, 2))
        hits.append((logits.argmax(1) == test.labels[chosen]).double().mean())
        both = torch.cat([test.scores[chosen], logits]).double().logsumexp(1)
        areas.append(roc_auc_score([1] * len(chosen) + [0] * len(chosen), both))
    assert cell(found, "maxsup", "corrupted_accuracy", "raw")["value"] == pytest.approx(
        np.mean(hits)
    )
    told = cell(found, "maxsup", "corrupted_auroc", "energy")["value"]
    assert told == pytest.approx(np.mean(areas), abs=1e-4)
    noise = run.outputs("ood-noise")
    assert len(noise) == 60  # its test images alone
    assert noise.features is None
    both = torch.cat([test.scores, noise.scores]).amax(1)
    told = cell(found, "maxsup", "ood_noise", "max_logit")["value"]
    assert told == pytest.approx(roc_auc_score([1] * len(test) + [0] * 60, both))


def test_differences_are_paired(found, study):
    """A difference would be held against the wrong column, or be told from unpaired seeds."""
    runs = {
        name: [Run(study / "study" / name / f"seed-{seed}") for seed in (0, 1)]
        for name in ("smoothing=0", "smoothing=0.3")
    }
    smoothed = [run.outputs("test").rows.nll for run in runs["smoothing=0.3"]]
    hard = [run.calibration.apply(run.outputs("test")).rows.nll for run in runs["smoothing=0"]]
    rows = torch.stack(smoothed) - torch.stack(hard)
    value, half = float(rows.mean()), half_over_seeds(rows.numpy())
    (told,) = (
        d
        for d in found["differences"]
        if (d["setting"], d["measure"]) == ("ε = 0.3", "nll")
        and (d["series"], d["against"]) == ("raw", "temperature")
    )
    assert (told["value"], told["low"]) == pytest.approx((value, value - half))
    assert told["verdict"] == ("worse" if value > half else "cannot tell")
    for d in found["differences"]:
        clear = d["low"] > 0 or d["high"] < 0
        better = (d["value"] > 0) == found["measures"][d["measure"]]["up"]
        assert d["verdict"] == ("cannot tell" if not clear else "better" if better else "worse")
    lead = found["words"][0]
    assert lead.startswith("ε = 0.3 against hard targets plus temperature: accuracy")
    assert f"NLL without temperature {told['value']:+.4f}".replace("-", "−") in lead
    assert found["words"][-1].startswith("Mind: one seed")


@pytest.mark.parametrize("name", ["aurc", "ece", "smece", "nll"])
@pytest.mark.parametrize("gain", [1.0, 3.0])
def test_influence_gives_the_bootstraps_variance(name: str, gain: float):
    """Intervals of differences would be too narrow or too wide."""
    draw = np.random.default_rng(1)
    labels = draw.integers(0, 5, 2000)
    logits = draw.normal(size=(2000, 5))
    logits[np.arange(2000), labels] += 1.5
    made = [Outputs.from_logits(g * logits, labels) for g in (gain, 0.7 * gain + 2)]
    drawn = replicates(METRICS[name], [METRICS[name].prepare(o) for o in made], 400)
    metric = METRICS[name]
    rows = torch.stack([influence_of(metric, metric.prepare(o)) for o in made])
    for spread, added in (
        (drawn[0].std(), rows[0]),
        ((drawn[1] - drawn[0]).std(), rows[1] - rows[0]),
    ):
        assert float(added.std() / math.sqrt(2000) / spread) == pytest.approx(1, abs=0.13)


def test_auroc_of_corrupted_pictures_counts_each_picture_once():
    """An image and its corruption would count as two, and the interval be wrong."""
    draw = torch.Generator().manual_seed(0)
    clean = torch.randn(400, 4, generator=draw, dtype=torch.float64)
    outside = 0.8 * clean + 0.2 * torch.randn(400, 4, generator=draw, dtype=torch.float64)
    labels = torch.zeros(400, dtype=torch.int64)
    a, b = (Outputs.from_logits(z, labels) for z in (clean, outside))
    told = apart(a, b, 0.95, paired=True)["max_logit"]
    x, y = clean.amax(1).numpy(), outside.amax(1).numpy()
    drawn = []
    for _ in range(400):
        i = torch.randint(400, (400,), generator=draw).numpy()
        drawn.append(roc_auc_score([1] * 400 + [0] * 400, np.concatenate([x[i], y[i]])))
    assert float(told.influence[0].std() / 20) == pytest.approx(np.std(drawn), rel=0.15)


def test_strata():
    """The corrupted images would be of other classes than the test images."""
    labels = np.repeat([0, 1, 2], [600, 300, 100])
    chosen = stratified(labels, 100)
    assert np.bincount(labels[chosen]).tolist() == [60, 30, 10]
    assert len({*chosen.tolist()}) == 100
    assert stratified(labels, 2000).tolist() == list(range(1000))


def test_predictions_are_kept_and_made_anew_for_other_pictures(found, study, elsewhere, tmp_path):
    """Every call would predict for minutes, or judge yesterday's images."""
    said: list[str] = []
    runs = runs_of([study / "study"])
    again = tradeoff(runs, [elsewhere], runs_of([study / "students"]), watch=said.append)
    assert again.findings == found
    assert not said
    path = tmp_path / "noise.npz"
    arrays = dict(np.load(elsewhere))
    np.savez(path, **{k: v[:50] if k.endswith("test") else v for k, v in arrays.items()})
    tradeoff(runs[:1], [str(path)], watch=said.append)
    assert len(said) == 1
    assert "predicting ood-noise" in said[0]


def test_bad_input(study, elsewhere, tmp_path):
    """Numbers of different images would be compared, or a run count twice."""
    runs = runs_of([study / "study"])
    other = Run(Path(shutil.copytree(runs[0].folder, tmp_path / "other")))
    told = other.data
    told["hashes"]["test"] = "another"
    (other.folder / "data.json").write_text(json.dumps(told))
    with pytest.raises(LevelheadError, match="judged on other test images"):
        tradeoff([*runs, other])
    with pytest.raises(LevelheadError, match="same recipe and seed"):
        tradeoff([runs[0], runs[0]])
    with pytest.raises(LevelheadError, match="runs' own data"):
        tradeoff(runs, ["digits"])
    with pytest.raises(LevelheadError, match="a second one called 'noise'"):
        tradeoff(runs, [elsewhere, elsewhere])
    with pytest.raises(LevelheadError, match="is none of the runs"):
        tradeoff(runs, students=runs[:1])
    with pytest.raises(LevelheadError, match="no run"):
        tradeoff([])


def test_without_hard_targets_nothing_is_compared(study):
    """A remedy or a smoothed network would pass for hard targets."""
    runs = runs_of([study / "study" / "loss=maxsup" / "seed-0"])
    found = tradeoff(runs, level=0.9).findings
    assert found["hard"] is None
    assert found["settings"][0]["remedy"]
    assert not found["differences"]
    assert "No setting has hard targets" in found["words"][0]


def drawn_from(epsilons: list[float], remedies: list[str]) -> dict[str, Any]:
    """As much of the findings as the figure reads, three series a measure."""

    def number(x: float) -> dict[str, float]:
        return {"value": x, "low": x - 0.02, "high": x + 0.03}

    names = [*((f"ε = {e:g}", e, False) for e in epsilons), *((n, 0.0, True) for n in remedies)]
    keys = ("raw", "temperature", "pnorm")
    settings = [
        {"name": n, "smoothing": e, "remedy": r,
         "measures": {m: {k: number(0.9 - 0.1 * i) for i, k in enumerate(keys)} for m in MEASURES}}
        for n, e, r in names
    ]  # fmt: skip
    settings[-1]["measures"].pop("student_accuracy")
    measures = {name: measure.to_json() for name, measure in MEASURES.items()}
    return {"hard": "ε = 0", "settings": settings, "measures": measures}


@pytest.mark.parametrize(
    ("epsilons", "remedies"),
    [([0, 0.05, 0.1, 0.2, 0.4], ["online", "model=resnet18, smoothing=0.1, a long one"]),
     ([0, 0.01, 0.02, 0.9], []), ([0], ["maxsup"])],
)  # fmt: skip
def test_nothing_overlaps_and_nothing_is_cut_off(epsilons, remedies):
    """Names of settings would run into each other or off the image."""
    for panel in FIGURES["tradeoff"].data(drawn_from(epsilons, remedies)):
        with _painted(panel, FIGURES["tradeoff"].draw) as figure:
            figure.draw_without_rendering()
            box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
            assert min(box.x0, box.y0) > -0.02
            assert box.x1 < width + 0.02
            assert box.y1 < height + 0.02
            (axes,) = figure.axes
            ticks = [t.get_window_extent() for t in axes.get_xticklabels() if not t.get_rotation()]
            assert all(a.x1 < b.x0 for a, b in itertools.pairwise(ticks))


def test_confidence_over_training_is_that_of_the_histories(study):
    """A network would be called over-confident that is not, or its seeds not be seen."""
    runs = runs_of([study / "study"])
    found = {s["name"]: s["confidence"] for s in tradeoff(runs).findings["settings"]}
    own = [run.history[0] for run in runs if run.recipe.smoothing == 0.3]
    gaps = [row["validation_confidence"] - row["validation_accuracy"] for row in own]
    (course,) = found["ε = 0.3"]
    low, high = stats.t.interval(0.95, 1, np.mean(gaps), stats.sem(gaps))
    assert course["per_seed"] == gaps
    assert (course["value"], course["low"], course["high"]) == pytest.approx(
        (np.mean(gaps), low, high)
    )
    assert found["maxsup"][0]["low"] is None, "one seed does not say how seeds differ"


def test_a_head_on_a_still_body_has_no_course():
    """Networks without epochs would break the figure of those that have some."""
    still = SimpleNamespace(history=[{"penalty": 1.0, "fold_nll": 0.3}])
    assert confidence_course([still]) == []
    settings = [{"name": "still", "confidence": []}]
    assert FIGURES["overconfidence"].data({"settings": settings}) == ()


def test_the_course_is_drawn_with_and_without_intervals():
    """A study of one seed could not be drawn."""
    row = {"epoch": 1, "value": 0.1, "low": None, "high": None}
    more = [{"epoch": e, "value": 0.1 * e, "low": 0.0, "high": 0.3 * e} for e in (1, 2, 3)]
    found = {"settings": [{"name": n, "confidence": c} for n, c in (("a", [row]), ("b", more))]}
    (panel,) = FIGURES["overconfidence"].data(found)
    assert "a +0.100; b +0.300" in panel.label
    with _painted(panel, FIGURES["overconfidence"].draw) as figure:
        lines = [line for line in figure.axes[0].lines if line.get_label() in ("a", "b")]
        assert [line.get_ydata().tolist() for line in lines] == [[0.1], [0.1, 0.2, 0.1 * 3]]


def test_the_command(study, elsewhere, tmp_path, capsys):
    """What the library finds could not be had from a shell."""
    words = [str(study / "study"), "--ood", elsewhere, "--students", str(study / "students")]
    out = tmp_path / "out"
    assert cli(["tradeoff", *words, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "AURC, %" in said
    assert "AUROC, noise" in said
    panels = FIGURES["tradeoff"].data(json.loads((out / "findings.json").read_text()))
    assert [panel.title for panel in panels][-1] == "AUROC, noise"
    assert len([*out.glob("tradeoff-*.png")]) == len(panels) == len(MEASURES) + 1
    assert (out / "overconfidence.png").read_bytes().startswith(b"\x89PNG")
    assert to_png(panels[0], FIGURES["tradeoff"].draw).startswith(b"\x89PNG")
    assert to_svg(panels[0], FIGURES["tradeoff"].draw, "a").startswith("<svg")
    assert cli(["tradeoff", *words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["hard"] == "ε = 0"
    assert cli(["tradeoff", str(tmp_path)]) == 2
