"""Studies: what is trained, what is kept, what the numbers and the words say."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from levelhead import data
from levelhead.errors import LevelheadError
from levelhead.recipe import Recipe
from levelhead.runs import open_run
from levelhead.statistics.measured import Difference
from levelhead.studies import compare as study
from levelhead.studies.compare import _as_begun, cells, compare, open_study, table
from levelhead.studies.recommendation import sentence
from levelhead.studies.settings import KINDS, METRICS, MIXED, Change
from levelhead.training.events import Epoch, Event, Note
from worlds import half_over_seeds

SMALL = Recipe("digits", model="linear", epochs=2)
GRID = {"smoothing": (0.0, 0.1)}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> study.Study:
    """Hard targets against smoothing 0.1, two seeds each."""
    return compare(SMALL, GRID, seeds=2, out=tmp_path_factory.mktemp("studies") / "one")


@pytest.fixture
def copy(made: study.Study, tmp_path: Path) -> Path:
    """A study folder of its own, to spoil."""
    return shutil.copytree(made.folder, tmp_path / "copy")


def entry(findings: dict[str, Any], kind: str, metric: str) -> dict[str, Any]:
    """The difference of that kind and metric."""
    found = [d for d in findings["differences"] if (d["kind"], d["metric"]) == (kind, metric)]
    assert len(found) == 1
    return found[0]


def test_cells() -> None:
    """The product of settings and seeds, or the folder names, would be wrong."""
    grid = {"smoothing": (0.0, 0.1), "model": ("cnn", "timm:a/b", "timm:a-b")}
    found = cells(Recipe("digits", seed=4), grid, 2)
    assert len(found) == len({cell.folder for cell in found}) == 12
    assert [cell.seed for cell in found[:2]] == [4, 5]
    assert found[2].name == "model=cnn, smoothing=0.1"
    assert found[2].folder == "model=cnn,smoothing=0.1/seed-4"
    assert found[2].recipe == Recipe("digits", model="cnn", smoothing=0.1, seed=4)
    assert all(
        set(cell.folder) <= set("abcdefghijklmnopqrstuvwxyz0123456789=,.-/") for cell in found
    )
    (alone,) = cells(Recipe("digits"), {"smoothing": (0.2,)}, 1)
    assert (alone.name, alone.recipe.smoothing, alone.changes) == ("smoothing=0.2", 0.2, {})


@pytest.mark.parametrize(
    ("grid", "seeds", "said"),
    [
        ({"smoothng": (0, 1)}, 1, "'smoothing'"),
        ({"seed": (0, 1)}, 1, "--seed: a study has one"),
        ({"split_seed": (0, 1)}, 1, "--split-seed: a study has one"),
        ({"lr": (None, 1)}, 1, "--lr"),
        ({"smoothing": (0.0, 1.5)}, 1, "--smoothing 1.5"),
        ({}, 0, "--seeds 0"),
    ],
)
def test_refused_grids(grid: dict[str, tuple[Any, ...]], seeds: int, said: str) -> None:
    """A study that cannot be compared fairly would start."""
    with pytest.raises(LevelheadError, match=said):
        cells(SMALL, grid, seeds)


def test_refused_before_anything_is_trained(tmp_path: Path) -> None:
    """A misspelt model would be found out only after the other settings have trained."""
    out = tmp_path / "study"
    with pytest.raises(LevelheadError, match="did you mean 'linear'"):
        compare(SMALL, {"model": ("linear", "linaer")}, seeds=1, out=out)
    others = SMALL.replace(convention="others")
    with pytest.raises(LevelheadError, match="convention others"):
        compare(others, {"smoothing": (0.0, 0.95)}, seeds=1, out=out)
    assert not out.exists()


def test_findings_are_whole(made: study.Study) -> None:
    """The report or a reader of findings.json would miss something, or meet NaN."""

    def refuse(name: str) -> None:
        raise AssertionError(name)

    text = (made.folder / "findings.json").read_text()
    found = json.loads(text, parse_constant=refuse)
    assert found == json.loads(json.dumps(made.findings)) == open_study(made.folder).findings
    assert found["n"] == 359
    assert found["classes"] == len(found["class_names"]) == 10
    assert [s["name"] for s in found["settings"]] == ["smoothing=0", "smoothing=0.1"]
    for setting in found["settings"]:
        assert setting["seeds"] == [0, 1]
        assert all((made.folder / run / "model.safetensors").exists() for run in setting["runs"])
        for stage in ("raw", "calibrated"):
            assert list(setting[stage]) == list(METRICS)
            for cell in setting[stage].values():
                assert cell["value"] == pytest.approx(np.mean(cell["per_seed"]))
                assert 0 <= cell["low"] < cell["high"]
    assert len(found["differences"]) == 3 * len(METRICS)
    assert not (made.folder / "report.html").exists(), "the page is its caller's"
    header, rows = table(found)
    assert [len(row) for row in rows] == [len(header)] * 2


def test_intervals(made: study.Study) -> None:
    """An interval over seeds would not be the one that DESIGN.md defines."""
    losses: dict[str, np.ndarray] = {}
    for setting in made.findings["settings"]:
        for stage in ("raw", "calibrated"):
            rows = []
            for folder in setting["runs"]:
                run = open_run(made.folder / folder)
                outputs = run.outputs("test")
                z = outputs.scores.double().numpy()
                z = z / (run.calibration.temperature if stage == "calibrated" else 1)
                z = z - z.max(1, keepdims=True)
                log_p = z - np.log(np.exp(z).sum(1, keepdims=True))
                rows.append(-log_p[np.arange(len(z)), outputs.labels.numpy()])
            losses[f"{setting['name']} {stage}"] = np.stack(rows)

    def check(found: dict[str, Any], rows: np.ndarray, least: float = 0.0) -> None:
        half = max(half_over_seeds(rows), least)
        wanted = (rows.mean(), rows.mean() - half, rows.mean() + half)
        assert (found["value"], found["low"], found["high"]) == pytest.approx(wanted, rel=1e-5)

    for setting in made.findings["settings"]:
        for stage in ("raw", "calibrated"):
            rows = losses[f"{setting['name']} {stage}"]
            examples = rows.mean(0).var(ddof=1) / rows.shape[1]  # a mean is no surer than these
            check(setting[stage]["nll"], rows, 1.959964 * np.sqrt(examples))
    for kind, (own, other) in KINDS.items():
        change = losses[f"smoothing=0.1 {own}"] - losses[f"smoothing=0 {other}"]
        check(entry(made.findings, kind, "nll"), change)


def test_continuing_trains_nothing_twice(made: study.Study, copy: Path) -> None:
    """A stopped study would lose what it had trained, or end otherwise than in one go."""
    (copy / "findings.json").unlink()
    stopped, missing = "smoothing=0.1/seed-0", "smoothing=0.1/seed-1"
    (copy / stopped / "findings.json").unlink()
    shutil.rmtree(copy / missing)
    kept = {path: path.stat().st_mtime_ns for path in copy.glob("smoothing=0/*/model.safetensors")}
    events: list[Event] = []
    again = compare(SMALL, GRID, seeds=2, out=copy, watch=events.append)
    assert len(kept) == 2
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    said = [event.text for event in events if isinstance(event, Note)]
    assert "smoothing=0.1, seed 0 (3 of 4)" in said
    assert not any("smoothing=0," in text for text in said)
    assert sum(isinstance(event, Epoch) for event in events) in (2, 4)  # stopped after training
    for stage in ("raw", "calibrated"):
        assert again.findings["settings"][1][stage] == made.findings["settings"][1][stage]
    events.clear()
    compare(SMALL, GRID, seeds=2, out=copy, watch=events.append)
    assert events == []


def test_pictures_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every training would read all images again; and one seed would speak for a setting."""
    calls: list[str] = []
    load: Callable[..., Any] = data.load

    def counted(listing: data.Listing, **more: Any) -> data.Dataset:
        calls.append(listing.name)
        return load(listing, **more)  # type: ignore[no-any-return]

    monkeypatch.setattr("levelhead.training.prepare.load", counted)
    monkeypatch.setattr("levelhead.studies.recommendation.frozen", lambda recipe: True)
    monkeypatch.chdir(tmp_path)
    grid = {"smoothing": (0.0, 0.1), "model": ("linear", "mlp")}
    found = compare(SMALL, grid, seeds=1).findings
    assert calls == ["digits"]
    assert (tmp_path / "runs" / "digits-study-1" / "findings.json").exists()
    # Each smoothed setting is held against its own hard targets too.
    pairs = {(d["setting"], d["baseline"]) for d in found["differences"] if d["kind"] == MIXED}
    first, second = "model=linear, smoothing=0", "model=mlp, smoothing=0"
    assert pairs == {(f"{first}.1", first), (f"{second}.1", first), (f"{second}.1", second)}
    assert all("these models" in d["words"] for d in found["differences"])
    said = " ".join(found["recommendation"])
    assert "one seed speaks for these models" in said
    assert "smoothing touched the head alone" in said
    # One seed: the interval of the run itself, Wilson's for accuracy.
    run = open_run(tmp_path / "runs" / "digits-study-1" / found["settings"][0]["runs"][0])
    own, alone = (
        found["settings"][0]["raw"]["accuracy"],
        run.findings["test"]["metrics"]["accuracy"],
    )
    assert {key: own[key] for key in alone} == alone
    # Without --out the same request goes on with its unfinished study, and with no other.
    (tmp_path / "runs" / "digits-study-1" / "findings.json").unlink()
    assert compare(SMALL, grid, seeds=1).folder == Path("runs") / "digits-study-1"


def test_another_request_is_refused(copy: Path, tmp_path: Path) -> None:
    """Cells of two different studies would be mixed in one folder."""
    with pytest.raises(LevelheadError, match=r"a study with smoothing 0 0.1, not 0 0.2; ask"):
        compare(SMALL, {"smoothing": (0.0, 0.2)}, seeds=2, out=copy)
    with pytest.raises(LevelheadError, match="a study with epochs 2, not 3"):
        compare(SMALL.replace(epochs=3), GRID, seeds=2, out=copy)
    with pytest.raises(LevelheadError, match=r"a study with lr unset, not 0.1"):
        compare(SMALL.replace(lr=0.1), GRID, seeds=2, out=copy)
    with pytest.raises(LevelheadError, match="a study with seeds 2, not 3"):
        compare(SMALL, GRID, seeds=3, out=copy)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(LevelheadError, match="other files"):
        compare(SMALL, GRID, seeds=2, out=tmp_path)
    with pytest.raises(LevelheadError, match="no finished study"):
        open_study(tmp_path)


def test_other_splits_are_refused(copy: Path) -> None:
    """Differences would be taken between models judged on different images."""
    path = copy / "smoothing=0.1" / "seed-1" / "data.json"
    data = json.loads(path.read_text())
    data["hashes"]["test"] = "0" * 64
    path.write_text(json.dumps(data))
    with pytest.raises(LevelheadError, match=r"seed-1: trained on other splits"):
        compare(SMALL, GRID, seeds=2, out=copy)


def test_a_failed_training_does_not_lose_the_others(tmp_path: Path) -> None:
    """One diverging cell would cost the whole study, or vanish from its findings."""
    found = compare(SMALL, {"lr": (2e-3, 1e38)}, seeds=1, out=tmp_path / "a").findings
    (lost,) = found["failed"]
    assert (lost["name"], lost["seed"]) == ("lr=1e+38", 0)
    assert "no longer finite" in lost["why"]
    assert [setting["name"] for setting in found["settings"]] == ["lr=0.002"]
    assert "1 of 2 trainings are missing" in " ".join(found["recommendation"])
    with pytest.raises(LevelheadError, match=r"every training failed.*no longer finite"):
        compare(SMALL.replace(lr=1e38), {}, seeds=1, out=tmp_path / "b")


def test_two_classes(folder: Callable[..., Path], tmp_path: Path) -> None:
    """A metric that few classes leave undefined would be NaN, or stop the study."""
    root = folder({"cat": 20, "dog": 20})
    found = compare(SMALL.replace(data=str(root)), GRID, seeds=2, out=tmp_path / "study").findings
    for setting in found["settings"]:
        top5 = setting["raw"]["top5"]
        assert (top5["value"], top5["per_seed"]) == (None, [None, None])
        assert "2 classes" in top5["reason"]
    assert {d["metric"] for d in found["differences"]} == {"accuracy", "nll", "brier", "ece"}


def test_recommendation(made: study.Study) -> None:
    """The setting would be chosen on test, or the path to predict with would not exist."""
    best = min(made.findings["settings"], key=lambda s: s["validation_nll"]["calibrated"])
    chosen = made.findings["recommended"]
    assert chosen["setting"] == best["name"]
    nll = {}
    for folder in best["runs"]:
        run = open_run(made.folder / folder)
        held = run.calibration.apply(run.outputs("validation"))
        nll[folder] = METRICS["nll"].value(METRICS["nll"].prepare(held))["nll"]
    assert chosen["run"] == min(nll, key=nll.__getitem__)
    said = made.findings["recommendation"]
    assert 2 <= len(said) <= 5
    assert said[0].startswith(f"Use {best['name']} with temperature scaling")
    assert "validation chose" in said[0]
    assert f"levelhead predict {made.folder / chosen['run']} IMAGE" in said[-1]
    assert "levelhead train digits --model linear" in said[-1]


def test_words() -> None:
    """A difference would be worded without its number, or an end that excludes 0 shown as 0."""

    def words(kind: str, metric: str, value: float, low: float, high: float) -> str:
        direction = METRICS[metric].quantity.direction
        difference = Difference(value, low, high, (0.0, 0.0), None, direction)
        return sentence(Change("smoothing=0.1", "smoothing=0", kind, metric, difference))

    assert words("raw", "accuracy", 0.004, -0.002, 0.01) == (
        "Before temperature, smoothing=0.1 changes accuracy by +0.4 points [−0.2, +1.0] against "
        "smoothing=0: cannot tell."
    )
    clear = words("raw", "accuracy", 0.004, 0.0003, 0.01)
    assert "by +0.40 points [+0.03, +1.00] against smoothing=0: better." in clear
    assert words(MIXED, "nll", 0.1, 0.05, 0.2) == (
        "smoothing=0.1 without temperature changes NLL by +0.1000 [+0.0500, +0.2000] against "
        "smoothing=0 with temperature: worse."
    )


def test_agreeing_networks_still_have_an_interval(made: study.Study, copy: Path) -> None:
    """Two settings that answer alike on a few hundred images would be called equal for certain."""
    for seed in ("seed-0", "seed-1"):
        for name in ("outputs", "findings.json", "calibration.json"):
            source, to = copy / "smoothing=0" / seed / name, copy / "smoothing=0.1" / seed / name
            if source.is_dir():
                shutil.copytree(source, to, dirs_exist_ok=True)
            else:
                shutil.copy(source, to)
    found = compare(SMALL, GRID, seeds=2, out=copy).findings
    change = entry(found, "raw", "accuracy")
    assert change["value"] == 0
    assert change["high"] == pytest.approx(1.959964 / 359)
    assert "either will do" in found["recommendation"][1]


def test_a_budget_begins_nothing_that_would_end_later(tmp_path, monkeypatch):
    """A night's budget would be overrun, or what was trained in it not be judged."""
    clock = iter(range(0, 10_000, 60))  # a minute passes between any two looks
    monkeypatch.setattr(study, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    said: list[str] = []
    words: dict[str, Any] = {"seeds": 2, "out": tmp_path / "s"}
    words["watch"] = lambda event: said.append(str(event))
    found = compare(SMALL, GRID, deadline=200.0, **words).findings
    assert [(s["name"], s["seeds"]) for s in found["settings"]] == [("smoothing=0", [0, 1])]
    assert [one["name"] for one in found["failed"]] == ["smoothing=0.1"] * 2
    assert any("2 of 4 trainings wait" in text for text in said)
    whole = compare(SMALL, GRID, **words).findings
    assert not whole["failed"]
    assert [s["seeds"] for s in whole["settings"]] == [[0, 1], [0, 1]]


def test_a_head_on_a_frozen_body_is_trained_once(monkeypatch, tmp_path, quick_judging):
    """Three bit-equal trainings would be reported as a mean over three seeds."""
    monkeypatch.setattr("levelhead.studies.compare.frozen", lambda recipe: True)
    made = compare(SMALL, {"smoothing": (0.0, 0.1)}, seeds=3, out=tmp_path / "study")
    assert [setting["seeds"] for setting in made.findings["settings"]] == [[0], [0]]
    again = compare(SMALL, {"smoothing": (0.0, 0.1)}, seeds=3, out=tmp_path / "study")
    assert again.findings["settings"] == made.findings["settings"]


def test_either_will_do_only_within_a_margin(made: study.Study):
    """Two settings that nothing tells apart would be called equal, whatever the data's size."""
    from levelhead.studies.recommendation import _either

    def pair(low: float, high: float) -> list[Change]:
        one = Difference((low + high) / 2, low, high, (0.0, 0.0, 0.0))
        return [Change("a", "b", "calibrated", name, one) for name in ("accuracy", "nll")]

    assert "either will do" in _either(pair(-0.004, 0.006), 0.01)
    wide = _either(pair(-0.04, 0.06), 0.01)
    assert "either will do" not in wide
    assert "1 point and 0.01 nats" in wide
    assert _either(pair(0.01, 0.02), 0.01) == "."


def test_a_study_begun_before_blocks_were_tuned_goes_on_with_the_head_alone(tmp_path):
    """A study of photos that was stopped would be refused, or end in runs of two kinds."""
    (tmp_path / "study.toml").write_text('seeds = 1\n[recipe]\ndata = "x"\nfinetune = false\n')
    assert _as_begun(tmp_path, Recipe("x"), {}).finetune is False
    assert _as_begun(tmp_path, Recipe("x", finetune=True), {}).finetune is True
    assert _as_begun(tmp_path, Recipe("x"), {"finetune": (True, False)}).finetune is None
    assert _as_begun(tmp_path / "new", Recipe("x"), {}).finetune is None
