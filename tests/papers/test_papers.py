"""Reproductions: verdicts, the plan, and a whole paper on invented images."""

from __future__ import annotations

import json
import math
import re
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from levelhead.cli import run as cli
from levelhead.errors import LevelheadError
from levelhead.papers import PAPERS, followups, mueller2019, reproduce, translators
from levelhead.papers.document import page_text
from levelhead.papers.plan import finished
from levelhead.papers.rows import ABOVE, BELOW, claim, missing, number, standing
from levelhead.papers.translation_claims import STUDY
from levelhead.recipe import Recipe
from levelhead.runs import Run
from levelhead.statistics.measured import Measured, spread
from levelhead.studies import landscape
from levelhead.studies.compare import cells
from levelhead.translation.translation_recipe import TranslationRecipe
from worlds import write_parallel

CIFAR = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def found(low, high, seeds=3):
    return Measured((low + high) / 2, low, high, (0.0,) * seeds)


def test_verdicts():
    """The page would say that we agree where we do not, or the other way round."""
    reported = (86.6, 87.0)
    assert number("a", found(86.7, 86.9), reported, "86.8 ± 0.2", 1).verdict == "agrees"
    wide = number("a", found(80, 86.7), reported, "86.8 ± 0.2", 1)
    assert wide.verdict == "cannot tell", "the wider an interval, the more it reaches"
    assert number("a", found(80, 86.5), reported, "86.8 ± 0.2", 1).verdict == "differs"
    assert number("a", found(87.1, 90), reported, "86.8 ± 0.2", 1).verdict == "differs"
    assert number("a", found(87.1, 90), None, "–", 1).verdict is None
    above = (0.0, math.inf)
    assert claim("a", found(0.1, 2), above, "above 0", 1).verdict == "agrees"
    assert claim("a", found(-2, -0.1), above, "above 0", 1).verdict == "differs"
    assert claim("a", found(-0.1, 2), above, "above 0", 1).verdict == "cannot tell"
    assert claim("a", found(-0.6, 0.2), (-0.5, 0.5), "within", 1).verdict == "cannot tell"
    assert claim("a", found(-0.3, 0.2), (-0.5, 0.5), "within", 1).verdict == "agrees"
    anything = (-math.inf, math.inf)
    assert claim("a", found(0.1, 2), anything, "–", 1).verdict is None, "nothing was claimed"
    assert missing("a", "1").verdict == "cannot tell"
    # One seed does not say how seeds differ.
    assert claim("a", spread([3.0]), above, "above 0", 1).verdict is None
    assert claim("a", found(0.1, 2, seeds=1), above, "above 0", 1).verdict is None
    assert claim("a", spread([3.0]), above, "above 0", 1).to_json()["high"] is None
    assert missing("a", "1").cells == ("1", "–", "–", "cannot tell")


def test_holm_leaves_what_stands_among_many():
    """With forty claims two are shown by chance, and the page would sell them as findings."""
    rows = [claim(f"n{i}", found(0.01, 2), ABOVE, "above 0", 1) for i in range(40)]
    rows.append(claim("sure", found(5, 6), ABOVE, "above 0", 1))
    rows.append(claim("other", found(5, 6), (4, 7), "within 4 to 7", 1))
    assert {row.verdict for row in rows} == {"agrees"}
    assert standing(rows) == {40}
    assert standing(rows[:1]) == {0}
    assert standing([]) == set()


@pytest.mark.parametrize("claimed", [ABOVE, BELOW])
def test_equal_networks_agree_with_no_claim(claimed):
    """[0, 0] would agree with "above 0" on one page and with "below 0" on another."""
    for same in (Measured(0.0, 0.0, 0.0, (0.0, 0.0)), spread([0.0, 0.0, 0.0])):
        assert claim("a", same, claimed, "", 1).verdict == "cannot tell"


def test_a_peak_is_chosen_on_other_seeds():
    """Mere noise would rise and fall: the highest of several lies above the first and the last."""
    curves = np.array([[0.0, 5.0, 1.0], [0.0, 2.0, 4.0], [0.0, 1.0, 2.0]])
    assert mueller2019.peaks(curves).tolist() == [1.0, 2.0, 1.0]
    noise = np.random.default_rng(0).normal(size=(3000, 9))
    told = [mueller2019.peaks(three) - three[:, -1] for three in noise.reshape(-1, 3, 9)]
    assert abs(np.mean(told)) < 0.08
    assert mueller2019.peaks(curves[:1]).tolist() == [5.0]


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("paper", list(PAPERS))
def test_every_experiment_has_its_studies_and_every_study_a_use(paper, full, tmp_path):
    """An experiment would wait for trainings that nobody plans, or a training feed nothing."""
    planned = PAPERS[paper].studies(tmp_path / "data", tmp_path / "out", full)
    used = set()
    for experiment in PAPERS[paper].EXPERIMENTS.values():
        mine = {name for name in planned if name.startswith(experiment.studies)}
        assert mine
        assert all(any(name.startswith(p) for name in planned) for p in experiment.studies)
        used |= mine
    assert used == set(planned)
    for plan in planned.values():
        if isinstance(plan.recipe, TranslationRecipe):
            # 0 and 0.1 are compared over seeds, of the other ε one seed draws the curve.
            assert len(translators(plan, tmp_path, 2)) == 2 + len(plan.grid["smoothing"])
            continue
        made = cells(plan.recipe, plan.grid, 2)
        assert len(made) == 2 * math.prod(map(len, plan.grid.values()))
        if plan.taught_by is not None:
            teacher = planned[plan.taught_by]
            folders = {cell.folder for cell in cells(teacher.recipe, teacher.grid, 2)}
            for seed in range(2):
                path = plan.recipe.teacher.replace("{seed}", str(seed))
                assert any(f"{plan.taught_by}/{folder}" in path for folder in folders), path


def test_in_full_the_teacher_sees_what_the_student_sees(tmp_path):
    """--full would teach opinions of images that the student never sees, as no paper does."""
    student = mueller2019.studies(tmp_path, tmp_path, True)["students-of-0"].recipe
    assert not student.teacher.endswith(".safetensors")


def test_published_settings_are_the_papers(tmp_path):
    """--full would train something else than the paper: 390,000 and 64,000 steps of 128."""
    planned = mueller2019.studies(tmp_path, tmp_path, True)
    for name, steps in (("alexnet", 390_000), ("cifar10", 64_000)):
        recipe = planned[name].recipe
        assert recipe.epochs * math.ceil(40_000 / 128) == pytest.approx(steps, rel=0.003)
        assert recipe.validation == 0.2
        assert recipe.lr == pytest.approx(0.3)
        assert recipe.batch_size == 128
    assert planned["mnist-student-hard"].recipe.beta == 0.6
    assert planned["mnist-student-hard"].recipe.match == "logits"
    assert planned["mnist-teacher-hard"].recipe.crop == 2
    assert planned["mnist-student-hard"].recipe.crop == 0


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Three folders with invented images of classes that can be told apart."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    hundred = ["beaver", "dolphin", "otter", *"abcdefg"]
    for name, channels, kinds in (
        ("cifar10", 3, CIFAR),
        ("cifar100", 3, hundred),
        ("mnist", 1, list("0123456789")),
    ):
        patterns = rng.uniform(0, 255, (10, 16, 16, channels))
        for part, many in (("train", 24), ("test", 8)):
            labels = np.repeat(np.arange(10), many)
            noise = rng.normal(0, 90, (len(labels), 16, 16, channels))
            images = np.clip(patterns[labels] + noise, 0, 255).astype(np.uint8)
            (root / name / part).mkdir(parents=True)
            _write(root / name / part, images, labels, kinds)
    # What people said of the 240 training images, in the order of their names.
    said = np.arange(240) // 24
    said[::5] = (said[::5] + 1) % 10
    (root / "cifar10n").mkdir()
    pq.write_table(pa.table({"worst": said}), root / "cifar10n" / "labels.parquet")
    return root


def _write(folder, images, labels, kinds):
    from PIL import Image

    for k, kind in enumerate(kinds):
        (folder / kind).mkdir()
        for i, image in enumerate(images[labels == k]):
            Image.fromarray(image.squeeze()).save(folder / kind / f"{i}.png")


@pytest.fixture
def tiny(monkeypatch, quick_judging):
    """The paper's plan with networks that train in a second."""
    real = mueller2019.studies

    def studies(data, out, full):
        small = {"model": "cnn", "epochs": 2, "batch_size": 64, "image_size": 16, "lr": 0.01}
        more = {"crop": 1, "flip": True, "width": None, "dropout": None, "precision": "float32"}
        planned = real(data, out, full)
        shortened = {}
        for name, plan in planned.items():
            grid = dict(plan.grid)
            if name.startswith("students-of-0.4"):
                continue
            if "temperature" in grid:
                grid["temperature"] = (1.0, 4.0)
            if name == "cifar10":
                grid["smoothing"] = (0.0, 0.1)
            if name == STUDY:
                write_parallel(data / "multi30k", (200, 30, 30))
                quick = {"layers": 1, "width": 16, "heads": 2, "feed_forward": 32, "epochs": 2}
                tongues = {"source": "aa", "target": "bb", "vocabulary": 330, "batch_tokens": 500}
                recipe = plan.recipe.replace(**quick, **tongues)
                shortened[name] = type(plan)(recipe, {"smoothing": (0.0, 0.1)})
                continue
            recipe = plan.recipe.replace(**small, **more)
            if name in ("overfit", "hundred-overfit"):
                grid["smoothing"] = (0.0, 0.05)
            if name == "hundred":
                grid["smoothing"] = (0.0, 0.1)
            if name == "students-alone":
                grid["smoothing"] = (0.0, 0.1)
            if "students" in name or "mnist-student" in name:
                recipe = recipe.replace(model="linear", dropout=None)
            if name == "cifar10":
                recipe = recipe.replace(save_every=4)
            shortened[name] = type(plan)(recipe, grid, plan.taught_by)
        return shortened

    monkeypatch.setattr(mueller2019, "studies", studies)


def test_a_whole_reproduction_and_again(pictures, tiny, tmp_path, capsys):
    """The command would stop on the way, train twice what it holds, or write a page of nothing."""
    out = tmp_path / "out"
    words = ["reproduce", "mueller2019", "--data", str(pictures), "--out", str(out), "--json"]
    assert cli([*words, "--seeds", "2"]) == 0
    findings = json.loads(capsys.readouterr().out)
    assert list(findings["experiments"]) == list(mueller2019.EXPERIMENTS)
    for name, experiment in findings["experiments"].items():
        assert experiment["rows"], name
        for row in experiment["rows"]:
            missing_there = "equal γ" in row["what"] or "superclass" in row["what"]
            known = row["value"] is not None or missing_there
            assert known, f"{name}: {row['what']} was not measured"
    page = (out / "mueller2019" / "README.md").read_text()
    drawn = ("penultimate-alexnet-1", "penultimate-cifar10-4", "information-1", "temperatures-2")
    for name in drawn:
        assert f"({name}.png)" in page
        assert (out / "mueller2019" / f"{name}.png").stat().st_size > 5_000
    assert str(tmp_path) not in page
    began = {p: p.stat().st_mtime_ns for p in out.glob("*/*/*/model.safetensors")}
    assert len(began) > 30
    assert cli([*words[:-1], "--seeds", "2", "--experiment", "table2", "mnist"]) == 0
    assert {p: p.stat().st_mtime_ns for p in out.glob("*/*/*/model.safetensors")} == began
    said = capsys.readouterr().out
    assert "error %, teacher 2×1200, dropout" in said
    assert "information in nats" not in said, "it was not asked for"
    assert (out / "mueller2019" / "README.md").read_text() == page, "the others must be kept"
    # Another paper reads the same trainings.
    assert cli(["reproduce", "xia2025", *words[2:], "--seeds", "2"]) == 0
    found = json.loads(capsys.readouterr().out)["experiments"]["aurc-cifar10"]["rows"]
    assert {p: p.stat().st_mtime_ns for p in out.glob("*/*/*/model.safetensors")} == began
    hard = [run for run in finished(out / "cifar10") if not run.recipe.smoothing]
    areas = [run.findings["test"]["metrics"]["aurc"]["value"] for run in hard]
    assert found[0]["value"] == pytest.approx(100 * np.mean(areas), rel=1e-6)
    followed(out, words, capsys)
    assert {p: p.stat().st_mtime_ns for p in began} == began, "its trainings are shared"
    # Stopped on the way: one smoothed seed, no smoothed run, no students.
    forget(out, "cifar10/smoothing=0.1/seed-1", "overfit/smoothing=0.05/seed-*", "students-*/*/*")
    forget(out, "cifar10", "overfit", "students-*")
    assert cli([*words, "--seeds", "2", "--budget", "0"]) == 0
    part = json.loads(capsys.readouterr().out)["experiments"]
    assert {row["verdict"] for row in part["figure5"]["rows"]} == {"cannot tell"}
    table3 = {row["what"]: row for row in part["table3"]["rows"]}
    assert table3["fast: ECE, ε 0 minus 0.1"]["seeds"] == 1
    assert table3["ECE, AlexNet without augmentation"]["value"] is None


def followed(out, words, capsys):
    """What came after the paper: every row is what two runs and a subtraction say."""
    assert cli(["reproduce", "followups", *words[2:], "--seeds", "2"]) == 0
    findings = json.loads(capsys.readouterr().out)
    assert list(findings["experiments"]) == list(followups.EXPERIMENTS)
    rows = {}
    for name, experiment in findings["experiments"].items():
        assert experiment["rows"], name
        assert all(r["seeds"] == 2 for r in experiment["rows"] if "students" not in r["what"])
        rows[name] = {row["what"]: row for row in experiment["rows"]}

    def mean(study, measure, stage="test"):
        told = [run.findings[stage]["metrics"][measure]["value"] for run in study]
        return np.mean(told)

    def runs(study):
        return [Run(path.parent) for path in sorted(out.glob(f"{study}/seed-*/findings.json"))]

    hard, online = runs("overfit/smoothing=0"), runs("online/*")
    mbls = runs("relatives/loss=mbls")
    seen = rows["relatives"]
    assert seen["NLL after T, mbls"]["value"] == pytest.approx(
        mean(mbls, "nll", "test_calibrated"), rel=1e-6
    )
    assert seen["smECE %, online minus ε = 0"]["value"] == pytest.approx(
        100 * (mean(online, "smece") - mean(hard, "smece")), rel=1e-6
    )
    assert seen["accuracy %, maxsup minus ε = 0.05"]["value"] is not None
    for kind, told in (("symmetric", "symmetric"), ("asymmetric", "asymmetric"), ("human", None)):
        study = runs(f"noise-{kind}/smoothing=0.1")
        assert [run.recipe.noise for run in study] == [told or "none"] * 2
        gap = 100 * (mean(study, "accuracy") - mean(runs(f"noise-{kind}/smoothing=0"), "accuracy"))
        row = rows[f"noise-{kind}"]["accuracy %, ε 0.1 minus 0"]
        assert row["value"] == pytest.approx(gap, abs=1e-9)
        assert len(findings["experiments"][f"noise-{kind}"]["words"]) == 2
    two = rows["subsets"]["accuracy %, K = 2, ε 0.05 minus 0"]
    assert two["verdict"] in ("agrees", "differs", "cannot tell")
    assert runs("classes-2/smoothing=0")[0].data["class_names"] == ["cat", "dog"]
    held = rows["tradeoff"]["NLL, after temperature: ε = 0.1 minus hard plus temperature"]
    both = [runs(f"cifar10/smoothing={e}") for e in ("0", "0.1")]
    one, other = (mean(study, "nll", "test_calibrated") for study in both)
    assert held["value"] == pytest.approx(other - one, rel=1e-6)
    assert any(what.startswith("AUROC, mnist") for what in rows["tradeoff"])
    for name in ("tradeoff-cifar10-1", "tradeoff-relatives-5"):
        assert (out / "followups" / f"{name}.png").stat().st_size > 5_000


def forget(out, *studies):
    """Runs that were never finished."""
    for study in studies:
        for path in sorted(out.glob(f"{study}/findings.json")):
            path.unlink()


def test_without_time_it_says_what_is_missing(pictures, tiny, tmp_path):
    """A budget would be overrun, or an empty study be judged as if it were one."""
    out = tmp_path / "out"
    gone = time.monotonic() - 1
    seen = reproduce("mueller2019", pictures, out, deadline=gone)
    rows = [row for e in seen.experiments.values() for row in e["rows"]]
    assert {row["verdict"] for row in rows} <= {"cannot tell"}
    assert not list(out.glob("*/*/*/model.safetensors"))
    page = (out / "mueller2019" / "README.md").read_text()
    assert "mnist-student-hard 3 of 3" in page, "what was left out must be said"


@pytest.mark.parametrize(
    ("paper", "change", "says"),
    [
        ("muller2019", {}, "did you mean 'mueller2019'"),
        ("mueller2019", {"experiments": ["table9"]}, "--experiment table9: unknown"),
        ("mueller2019", {"data": "nowhere"}, "nowhere"),
    ],
)
def test_bad_input_is_said(paper, change, says, pictures, tmp_path):
    """A slip would cost a stack trace, or hours of training."""
    given = {"data": pictures, "out": tmp_path / "out"} | change
    data, out = given.pop("data"), given.pop("out")
    with pytest.raises(LevelheadError, match=says):
        reproduce(paper, data, out, **given)


def test_each_seed_has_its_own_teacher(tmp_path):
    """All students of a study would learn from one teacher, and its luck be taken for the rule."""
    from levelhead.training.defaults import Facts, resolve

    recipe = Recipe("digits", teacher=str(tmp_path / "t" / "seed-{seed}"), seed=3)
    assert resolve(recipe, Facts(8, 1, 1000)).teacher == str(tmp_path / "t" / "seed-3")


@pytest.mark.parametrize("paper", ["keras-notebook", "pytorch-notebook"])
def test_the_notebooks(paper, pictures, tmp_path, monkeypatch, quick_judging):
    """A notebook's command would stop on the way, or leave a claim without a number."""
    module = PAPERS[paper]
    real = module.studies

    def studies(data, out, full):
        small = {"model": "cnn", "epochs": 2, "batch_size": 64, "image_size": 16, "window": 0}
        planned = real(data, out, full)
        return {
            name: type(plan)(plan.recipe.replace(**small), plan.grid)
            for name, plan in planned.items()
        }

    monkeypatch.setattr(module, "studies", studies)
    monkeypatch.setattr(
        "levelhead.papers.pytorch_notebook.landscape",
        lambda pair, grid: landscape(pair, directions=2, points=3, images=20, grid=grid and 3),
    )
    result = reproduce(paper, pictures, tmp_path / "out", seeds=2)
    for name, experiment in result.experiments.items():
        assert experiment["rows"], name
        for row in experiment["rows"]:
            assert row["value"] is not None, f"{name}: {row['what']} was not measured"
            assert row["seeds"] == 2
    page = (tmp_path / "out" / paper / "README.md").read_text()
    for figure in re.findall(r"]\(([\w-]+\.png)\)", page):
        assert (tmp_path / "out" / paper / figure).stat().st_size > 5_000
    wanted = {"keras-notebook": "curves-smoothed-1", "pytorch-notebook": "landscapeplane-2"}
    assert f"({wanted[paper]}.png)" in page
    if paper == "keras-notebook":
        (row, _) = result.experiments["explicit"]["rows"]
        assert abs(row["value"]) < 1, "explicit labels and the loss are one thing"


@pytest.mark.parametrize("paper", list(PAPERS))
def test_the_published_page_is_what_its_findings_say(paper):
    """A number in docs/ would be one that nobody measured, or of an older question."""
    folder = Path(__file__).parents[2] / "docs" / paper
    findings = json.loads((folder / "findings.json").read_text(encoding="utf-8"))
    page = (folder / "README.md").read_text(encoding="utf-8")
    assert page == page_text(folder, PAPERS[paper].TITLE, findings)
    now = {name: e.title for name, e in PAPERS[paper].EXPERIMENTS.items()}
    assert {name: e["title"] for name, e in findings["experiments"].items()} == now
    for name in re.findall(r"]\(([\w-]+\.png)\)", page):
        assert (folder / name).stat().st_size > 5_000
