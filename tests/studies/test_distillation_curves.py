"""Students of smoothed and hard teachers at equal smoothness: the paper's figure 5 in numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from levelhead.cli import run as cli
from levelhead.errors import LevelheadError
from levelhead.figures import FIGURES
from levelhead.figures.canvas import _painted
from levelhead.outputs import Outputs
from levelhead.recipe import Recipe
from levelhead.runs import Run, runs_of
from levelhead.studies import distillation_curves
from levelhead.training.run import train
from worlds import half_over_seeds

N = 2000
TEACHER = Recipe("digits", model="cnn")
STUDENT = Recipe("digits", model="mlp")


class World:
    """Run folders with given accuracies, as training would leave them."""

    def __init__(self, root: Path) -> None:
        self.root, self.runs = root, []

    def add(self, recipe: Recipe, accuracy: float, gamma: float = 0.0, **data: Any) -> Run:
        """A run that is right on `accuracy` of the test images, and on all of validation."""
        run = Run(self.root / f"run-{len(self.runs)}")
        (run.folder / "outputs").mkdir(parents=True)
        (run.folder / "recipe.toml").write_text(recipe.to_toml())
        hashes = dict.fromkeys(("train", "validation", "test"), "a") | data
        found: dict[str, Any] = {"hashes": hashes, "class_names": list("abcdefghij")}
        found |= {"name": "a", "source": "a", "channels": 1, "image_size": 8}
        found |= {"counts": dict.fromkeys(hashes, N), "notes": [], "skipped": []}
        (run.folder / "data.json").write_text(json.dumps(found))
        (run.folder / "findings.json").write_text("{}")
        if recipe.teacher is not None:
            index = json.dumps({"smoothness_index": gamma})
            (run.folder / "distillation.json").write_text(index)
        right = np.random.default_rng(len(self.runs)).permutation(N) < round(accuracy * N)
        for split, hits in (("test", right), ("validation", np.ones(50, bool))):
            labels = np.where(hits, 0, 1)
            made = Outputs.from_logits(np.tile(np.eye(10)[0], (len(hits), 1)), labels)
            made.save(run.folder / "outputs" / f"{split}.safetensors")
        self.runs.append(run)
        return run

    def teacher(self, epsilon: float, accuracy: float, seed: int = 0) -> Run:
        return self.add(TEACHER.replace(smoothing=epsilon, seed=seed), accuracy)

    def student(self, teacher: Run, accuracy: float, gamma: float, **more: Any) -> Run:
        recipe = STUDENT.replace(teacher=str(teacher.folder), **more)
        return self.add(recipe, accuracy, gamma)


def correct(run: Run) -> np.ndarray:
    """1 where a run is right, [N]."""
    made = run.outputs("test")
    return (made.scores.argmax(1) == made.labels).numpy().astype(np.float64)


def students(world: World, epsilon: float, temperature: float) -> np.ndarray:
    """`correct` of the students of a teacher's ε by seed, [S, N]; student at 1."""
    found = []
    for run in world.runs:
        teacher, *own = run.recipe.teacher, run.recipe.temperature, run.recipe.student_temperature
        if teacher and [Run(Path(teacher)).recipe.smoothing, *own] == [epsilon, temperature, 1]:
            found.append(correct(run))
    return np.stack(found)


def compared(findings: dict[str, Any], at: str, **of: Any) -> dict[str, Any]:
    """The one comparison of a point."""
    (row,) = [
        c
        for c in findings["comparisons"]
        if c["at"] == at and all(c[key] == value for key, value in of.items())
    ]
    return row


@pytest.fixture
def world(tmp_path: Path) -> World:
    """The paper's four curves and the disputed one, two seeds, teachers by seed."""
    world = World(tmp_path)
    for seed in (0, 1):
        hard, soft = world.teacher(0.0, 0.93, seed), world.teacher(0.2, 0.96 + seed / 1000, seed)
        for epsilon in (0.0, 0.2):
            world.add(STUDENT.replace(smoothing=epsilon, seed=seed), 0.8 + epsilon / 10)
        for t, gamma, accuracy in ((1.0, 0.02, 0.80), (2.0, 0.1, 0.84), (4.0, 0.5, 0.90)):
            world.student(hard, accuracy + seed / 2000, gamma, temperature=t, seed=seed)
        both = {"temperature": 4.0, "student_temperature": 4.0, "seed": seed}
        world.student(hard, 0.89, 0.5, **both)
        world.student(soft, 0.80 - seed / 1000, 0.2, seed=seed)
        world.student(soft, 0.82, 0.6, temperature=4.0, seed=seed)
        world.student(soft, 0.89, 0.3, **both)
    return world


def test_runs_stand_on_their_curves(world):
    """A teacher would be drawn as a student, or one protocol's students as another's."""
    found = distillation_curves(world.runs[::-1]).findings
    shape = {
        (c["kind"], c["protocol"]): [
            (p["epsilon"], p["temperature"], p["student_temperature"], p["gamma"], p["n_seeds"])
            for p in c["points"]
        ]
        for c in found["curves"]
    }
    hard = (0.0, 1.0, 1.0, 0.02, 2)
    assert shape == {
        ("teachers", None): [(0.0, None, None, 0.0, 2), (0.2, None, None, 0.2, 2)],
        ("plain", None): [(0.0, None, None, 0.0, 2), (0.2, None, None, 0.2, 2)],
        ("hard", "student at 1 (Müller)"): [hard, (0.0, 2.0, 1.0, 0.1, 2), (0.0, 4.0, 1.0, 0.5, 2)],
        ("hard", "student at T (Hinton)"): [hard, (0.0, 4.0, 4.0, 0.5, 2)],
        ("smoothed", None): [hard, (0.2, 1.0, 1.0, 0.2, 2)],
        ("softened", "student at 1 (Müller)"): [(0.2, 4.0, 1.0, 0.6, 2)],
        ("softened", "student at T (Hinton)"): [(0.2, 4.0, 4.0, 0.3, 2)],
    }
    for curve in found["curves"]:
        for point in curve["points"]:
            assert point["value"] == pytest.approx(np.mean(point["per_seed"]))
            assert point["low"] < point["value"] < point["high"]
            assert point["validation"]["value"] == point["validation"]["high"] == 1
    json.dumps(found, allow_nan=False)


def test_differences_at_equal_gamma_are_interpolated_and_paired(world):
    """Smoothed teachers would be compared at unequal smoothness, or with the wrong interval."""
    found = distillation_curves(world.runs).findings
    row = compared(found, "gamma", temperature=1.0)
    p, a, b = (students(world, *of) for of in ((0.2, 1.0), (0.0, 2.0), (0.0, 4.0)))
    rows = p - (0.75 * a + 0.25 * b)  # γ 0.2 is a quarter of the way from 0.1 to 0.5
    half = half_over_seeds(rows)
    verdict = "worse" if rows.mean() + half < 0 else "cannot tell"
    assert row["between"] == [2.0, 4.0]
    assert (row["paired"], row["n_seeds"], row["verdict"]) == (True, 2, verdict)
    assert row["value"] == pytest.approx(rows.mean())
    assert (row["low"], row["high"]) == pytest.approx((row["value"] - half, row["value"] + half))
    at_t = compared(found, "temperature", temperature=1.0)
    assert at_t["value"] == pytest.approx(0.7995 - 0.80025)
    assert at_t["verdict"] == "cannot tell"
    out = compared(found, "gamma", temperature=4.0, student_temperature=1.0)
    assert (out["value"], out["verdict"]) == (None, "out of range")
    assert out["reason"] == "the hard teacher's students have 0.02 to 0.5"
    hinton = compared(found, "gamma", student_temperature=4.0)
    assert hinton["between"] == [1.0, 4.0]
    assert hinton["against"].endswith("student at T (Hinton)")
    (gain,) = found["teachers_gain"]
    assert (gain["value"], gain["verdict"]) == (pytest.approx(0.0305), "better")


def test_seeds_that_are_not_shared_take_no_part(tmp_path):
    """A difference would hold what one seed adds, and differ from that of other pages."""
    world = World(tmp_path)
    hard, soft = world.teacher(0.0, 0.9), world.teacher(0.1, 0.9)
    ours = [world.student(soft, a, 0.1, seed=s) for s, a in enumerate((0.70, 0.74, 0.71))]
    theirs = [world.student(hard, a, 0.1, seed=s + 2) for s, a in enumerate((0.80, 0.82))]
    row = compared(distillation_curves(world.runs).findings, "gamma")
    apart = correct(ours[2]) - correct(theirs[0])
    half = stats.norm.ppf(0.975) * np.sqrt(apart.var(ddof=1) / N)
    assert (row["paired"], row["n_seeds"], row["between"]) == (True, 1, [1.0])
    assert row["scope"] == "these models"
    assert row["value"] == pytest.approx(apart.mean())
    assert row["high"] - row["value"] == pytest.approx(half)


def test_without_a_shared_seed_nothing_is_told(tmp_path):
    """Two pages would give a difference of the same runs that only one of them may give."""
    world = World(tmp_path)
    hard, soft = world.teacher(0.0, 0.9), world.teacher(0.1, 0.9)
    world.student(soft, 0.7, 0.1, seed=0)
    world.student(hard, 0.8, 0.1, seed=1)
    findings = distillation_curves(world.runs).findings
    row = compared(findings, "gamma")
    assert (row["value"], row["low"], row["verdict"]) == (None, None, "cannot tell")
    assert "no seed" in row["reason"]
    assert "no seed" in " ".join(findings["words"])


def test_words_say_where_the_harm_is_and_what_to_mind(world, tmp_path):
    """A reader would take one seed, or one teacher, for the recipe."""
    first, second, *others = distillation_curves(world.runs).findings["words"]
    assert first.startswith("At equal gamma, the smoothed teacher's students are worse")
    assert "at 1 of 2 points" in first
    assert "at 1 of 3 points" in second
    assert any("worse at ε 0.2, T 4 (−8.03 points" in words for words in others)
    assert others[-1].startswith("Teachers against the one with hard targets: better at ε 0.2")
    one = World(tmp_path / "one")
    hard, soft = one.teacher(0.0, 0.9), one.teacher(0.1, 0.9)
    for seed in (0, 1):
        one.student(hard, 0.8, 0.0, seed=seed)
    one.student(soft, 0.8, 0.1)
    mind = distillation_curves(one.runs[2:]).findings["words"][-1]  # its teachers are found
    assert "one seed speaks for these models" in mind
    assert "share a teacher" in mind


def test_remedies_protocols_and_conventions_are_kept_apart(tmp_path):
    """Students would be averaged over different losses, or ε be taken for γ."""
    world = World(tmp_path)
    hard = world.add(TEACHER.replace(convention="others"), 0.9)
    soft = world.add(TEACHER.replace(convention="others", smoothing=0.18), 0.9)
    for number, more in enumerate(
        (
            {},
            {"match": "logits"},
            {"teacher_norm": 3.0},
            {"beta": 0.5},
            {"beta": 0.5, "smoothing": 0.1},
        )
    ):
        world.student(soft, 0.7 + number / 50, 0.1, **more)
        world.student(hard, 0.8, 0.1, **more)
    # Without β the student's own labels count for nothing, and neither does their smoothing.
    world.student(soft, 0.7, 0.1, seed=1, smoothing=0.3)
    found = distillation_curves(world.runs).findings
    assert found["curves"][0]["points"][1]["gamma"] == pytest.approx(0.2)
    ends = [c["name"].partition("T = 1")[2] for c in found["curves"] if c["kind"] == "smoothed"]
    assert sorted(ends) == sorted(
        ["", ", match logits", ", teacher norm 3.0", ", beta 0.5", ", beta 0.5, smoothing 0.1"]
    )
    assert all(c["between"] == [1.0] for c in found["comparisons"] if c["at"] == "gamma")
    for c in found["comparisons"]:
        assert c["curve"].partition("T = 1")[2] == c["against"].partition("temperature T")[2]


@pytest.mark.parametrize(
    ("case", "says"),
    [
        ("no student", "no run has a teacher"),
        ("other images", "judged on other images"),
        ("gone", "its teacher .* gone; put it back"),
        ("two students", "students differ: .* has model linear, not mlp"),
        ("stranger", "neither the teachers nor the students: another epochs; leave it out"),
        ("twice", "has the setting and seed of"),
        ("taught", "was taught itself"),
    ],
)
def test_what_cannot_be_compared_is_refused(case, says, tmp_path):
    """Accuracies on different images, or of different networks, would make one curve."""
    world = World(tmp_path)
    teacher = world.teacher(0.1, 0.9)
    if case != "no student":
        student = world.student(teacher, 0.8, 0.1)
    if case == "other images":
        world.add(TEACHER.replace(seed=1), 0.9, test="b")
    if case == "gone":
        (teacher.folder / "recipe.toml").unlink()
        world.runs.remove(teacher)
    if case == "two students":
        world.student(teacher, 0.8, 0.1, model="linear")
    if case == "stranger":
        world.add(TEACHER.replace(epochs=7), 0.9)
    if case == "twice":
        world.student(teacher, 0.8, 0.1)
    if case == "taught":
        world.student(student, 0.8, 0.1)
    with pytest.raises(LevelheadError, match=says):
        distillation_curves(world.runs)


def test_the_figure_holds_few_points_and_many(world):
    """A label would stand outside the image or on another, or the cut axis hide a point."""
    few = [run for run in world.runs if run.recipe.temperature == 1 and run.recipe.seed == 0]
    for runs in (world.runs, few):
        done = distillation_curves(runs)
        (panel,) = FIGURES["distillation"].data(done.drawn)
        assert panel.names == tuple(done.drawn)
        with _painted(panel, FIGURES["distillation"].draw) as figure:
            figure.draw_without_rendering()
            axes, box = figure.axes[0], figure.get_tightbbox()
            assert min(box.x0, box.y0) > -0.02
            assert box.x1 < panel.size[0] + 0.02
            boxes = [text.get_window_extent() for text in axes.texts]
            for i, one in enumerate(boxes):
                assert not any(one.shrunk(0.9, 0.9).overlaps(other) for other in boxes[:i])
            values = np.unique(np.concatenate(panel.accuracy))
            heights = axes.transData.transform(np.stack([0 * values, values], 1))[:, 1]
            assert (np.diff(heights) > 0).all()


def test_studies_and_runs_are_found(tmp_path):
    """An unfinished training would be judged, or silently not be."""
    study = World(tmp_path / "study" / "smoothing=0")
    run = study.teacher(0.0, 0.9)
    run.folder.rename(run.folder.parent / "seed-0")
    other = World(tmp_path).teacher(0.1, 0.9)
    study_path = tmp_path / "study"
    found = runs_of([study_path, other.folder, study_path / "smoothing=0" / "seed-0"])
    assert [r.folder.name for r in found] == ["seed-0", "run-0"]
    (other.folder / "findings.json").unlink()
    with pytest.warns(UserWarning, match="left out, not finished: .*run-0"):
        assert len(runs_of([study_path, other.folder])) == 1
    with pytest.raises(LevelheadError, match="run-0: not finished; give at least one"):
        runs_of([other.folder])
    with pytest.raises(LevelheadError, match=r"neither a run .* nor a study"):
        runs_of([tmp_path / "study" / "smoothing=0"])


def test_the_command_on_trained_students(tmp_path, capsys):
    """The figure could not be had from a shell, or would not fit what training writes."""
    recipe = Recipe("digits", model="linear", epochs=1)
    folder = tmp_path / "smoothing=0.3" / "seed-0"
    teacher = train(recipe.replace(smoothing=0.3), folder)
    student = recipe.replace(teacher=str(teacher.folder), temperature=3.0)
    taught = str(train(student, tmp_path / "student").folder)
    out = tmp_path / "out"
    assert cli(["distillation", str(tmp_path), taught, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "students of teachers with smoothing ε, other T, student at 1 (Müller)" in said
    assert "No smoothed teacher's students can be held against" in said
    assert sorted(path.suffix for path in out.iterdir()) == [".json", ".png", ".svg"]
    kept = json.loads((out / "findings.json").read_text())
    assert cli(["distillation", taught, str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == kept
    assert cli(["distillation", str(out)]) == 2
    assert "neither a run" in capsys.readouterr().err
