"""The judge: audit, calibrate and decide, as functions and as commands."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import levelhead
from levelhead.calibrators import CALIBRATORS, calibrator_of
from levelhead.cli import run
from levelhead.decisions.costs import of_errors
from levelhead.errors import LevelheadError
from levelhead.judging import audit, calibrate, confidence_gap, cross_fitted, decide, judge
from levelhead.metrics import HEADLINE, METRICS
from levelhead.outputs import Outputs
from levelhead.outputs.read import read_predictions
from levelhead.recipe import Recipe
from levelhead.training.run import train
from worlds import sampled

QUICK: dict[str, Any] = {"resamples": 50}
FIGURES = {"audit": 7, "calibrate": 3, "decide": 2}
"""Kinds of figures that each command draws."""


def sure(outputs: Outputs) -> Outputs:
    """The same, of which only the prediction and its confidence are known."""
    rows = outputs.rows
    return Outputs.from_confidence(
        rows.confidence[:, None], outputs.predictions(), outputs.labels, outputs.class_names
    )


def strict(found: Any) -> Any:
    """As JSON and back; raises on NaN and Infinity."""
    return json.loads(json.dumps(found, allow_nan=False))


def save(path: Path, outputs: Outputs, **more: Any) -> str:
    """As an npz that anyone could have written; its path."""
    arrays = {outputs.kind: outputs.scores.numpy(), "labels": outputs.labels.numpy()}
    if outputs.predicted is not None:
        arrays["predicted"] = outputs.predicted.numpy()
    np.savez(path, **(arrays | {"classes": np.array(outputs.class_names)} | more))
    return str(path)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Overconfident predictions of three classes: validation, test, and others without labels."""
    root = tmp_path_factory.mktemp("predictions")
    names = ["猫", "dog, wet", "<b>owl</b>"]
    made = {
        "validation": sampled(700, 3, 2.0, 1, class_names=names),
        "test": sampled(600, 3, 2.0, 2, class_names=names),
    }
    paths = {name: save(root / f"{name}.npz", outputs) for name, outputs in made.items()}
    paths |= {f"sure {n}": save(root / f"sure-{n}.npz", sure(o)) for n, o in made.items()}
    paths["outside"] = str(root / "outside.npz")
    np.savez(paths["outside"], logits=np.random.default_rng(3).normal(size=(200, 3)))
    paths["costs"] = str(root / "costs.csv")
    table = 'true,猫,"dog, wet",<b>owl</b>\n猫,0,9,9\n"dog, wet",1,0,1\n<b>owl</b>,1,2,0\n'
    Path(paths["costs"]).write_text(table, encoding="utf-8")
    return paths


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a finished run."""
    out = tmp_path_factory.mktemp("run") / "digits"
    train(Recipe("digits", model="linear", epochs=2), out)
    return str(out)


def told(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Standard output of a command that must succeed, without a word on standard error."""
    capsys.readouterr()
    assert run(list(words)) == 0, capsys.readouterr().err
    said = capsys.readouterr()
    assert said.err == ""
    return said.out


def fails(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line of a command that must fail with exit code 2."""
    capsys.readouterr()
    assert run(list(words)) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert len(said.err.splitlines()) == 1
    return said.err


def test_audit_has_its_schema() -> None:
    """Readers of findings.json would miss a block, meet NaN, or see other numbers each time."""
    outputs = sampled(400, 6, 2.0)
    found = strict(audit(outputs, outside=sampled(50, 6, seed=9), **QUICK).findings)
    assert (found["schema"], found["n"], found["classes"]) == (1, 400, 6)
    assert list(found["metrics"]) == list(METRICS)
    for cell in found["metrics"].values():
        assert set(cell) >= {"value", "low", "high"}
        assert cell["value"] is not None or cell["reason"]
    assert set(found["temperature"]) >= {"value", "low", "high", "fitted_on", "n"}
    advice = found["advice"]
    assert {row["method"] for row in advice["ranking"]} >= {"none", "temperature", "vector"}
    assert set(advice["before"]) == set(advice["after"]) == set(HEADLINE)
    assert advice["before"]["nll"] == found["metrics"]["nll"]
    kept = found["selective"]["thresholds"]
    assert [row["risk_wanted"] for row in kept] == [0.001, 0.005, 0.01, 0.02, 0.05, 0.1]
    assert found["outside"]["n"] == 50
    assert 0 < found["calibrated"]["p_value"] < 0.05
    for row in advice["ranking"]:
        row.pop("seconds")
    again = strict(audit(outputs, outside=sampled(50, 6, seed=9), **QUICK).findings)
    for row in again["advice"]["ranking"]:
        row.pop("seconds")
    assert again == found


def test_calibrate_fits_on_the_one_and_judges_the_other() -> None:
    """Calibration would be judged where it was fitted, or change what it promises to keep."""
    validation, test = sampled(500, 4, 2.0, 1), sampled(600, 4, 2.0, 2)
    made = calibrate(validation, test, **QUICK)
    found = strict(made.findings)
    assert {"before", "after", "method", "ranking"} <= set(found)
    assert found["method"] == "temperature"
    assert made.calibrator is not None
    assert found["calibration"] == strict(made.calibrator.to_json())
    alone = CALIBRATORS["temperature"].fit_outputs(validation)
    assert found["after"]["temperature"]["value"] == alone.summary()["value"]
    assert (found["n_validation"], found["after"]["n"]) == (500, 600)
    assert found["before"]["metrics"]["accuracy"] == found["after"]["metrics"]["accuracy"]
    assert found["after"]["metrics"]["nll"]["value"] < found["before"]["metrics"]["nll"]["value"]
    assert found["words"][0].startswith("Temperature calibration helps: NLL")
    assert "fitted on 500 examples (validation)" in " ".join(found["words"])
    left = calibrate(sampled(500, 4, seed=1), sampled(300, 4, seed=2), ["temperature"], **QUICK)
    if left.findings["method"] == "none":
        assert left.calibrator is left.findings["calibration"] is None
        assert left.findings["after"] == left.findings["before"]


def test_decide_keeps_its_promises_on_new_examples() -> None:
    """A threshold would let more through than wanted, or sets would miss more than alpha."""
    validation, test = sampled(4000, 4, 2.0, 1), sampled(4000, 4, 2.0, 2)
    decided = decide(
        validation, test, risk=0.1, alpha=0.2, abstain_price=0.3, costs=of_errors(tuple("0123")),
        outside=sampled(100, 4, seed=5), methods=["temperature"],
    )  # fmt: skip
    found = strict(decided.findings)
    assert found["n"] == {"fit": 2000, "set": 2000, "test": 4000}
    assert set(found["conformal"]) == {"lac", "aps", "raps"}
    best = found["threshold"]
    assert best["set"]["risk_wanted"] == 0.1
    assert best["test"]["risk"]["low"] <= 0.1
    assert 0 < best["test"]["coverage"]["value"] < 1
    for sets in found["conformal"].values():
        assert sets["test"]["coverage"]["high"] >= 0.8
        assert sets["test"]["coverage"]["value"] == pytest.approx(0.8, abs=0.03)
        low, high = sets["expected"]
        assert low < 0.8 <= high
    assert found["costs"]["saved"]["low"] > 0
    assert 0 < found["costs"]["abstained"] < 1
    assert found["outside"]["n"] == 100
    assert [row["set"]["risk_wanted"] for row in found["thresholds"]].count(0.1) == 1
    assert decided.errors.mean() == pytest.approx(1 - float(test.rows.correct.mean()))


def test_one_set_one_use() -> None:
    """The same examples would fit and judge, or set a threshold and test it."""
    made = sampled(300, 4, 2.0, 1, ids=[f"a{i}" for i in range(300)])
    other = sampled(300, 4, 2.0, 2, ids=[f"{'b' if i else 'a'}{i}" for i in range(300)])
    plain, copy = sampled(300, 4, 2.0, 1), sampled(900, 4, 2.0, 3)
    mixed = Outputs.from_logits(
        np.concatenate([copy.scores, plain.scores[50:100]]),
        np.concatenate([copy.labels, plain.labels[50:100]]),
    )
    for command in (calibrate, decide):
        with pytest.raises(LevelheadError, match="the first is the id 'a0'"):
            command(made, other)
        with pytest.raises(LevelheadError, match="50 of the 950 test examples are in validation"):
            command(plain, mixed)
        for split in ("train", "test"):
            with pytest.raises(LevelheadError, match=f"the split '{split}'"):
                command(sampled(300, 4, seed=1, split=split), sampled(300, 4, seed=2))
        with pytest.raises(LevelheadError, match="fitted for 4 classes; these outputs have 5"):
            command(plain, sampled(300, 5, seed=2))
        with pytest.raises(LevelheadError, match="class 1 was '1' where it was fitted and is 'x'"):
            command(plain, sampled(300, 4, seed=2, class_names=["0", "x", "2", "3"]))
        with pytest.raises(LevelheadError, match="validation holds logits, test holds confidence"):
            command(plain, sure(sampled(300, 4, seed=2)))
        with pytest.raises(LevelheadError, match="did you mean 'temperature'"):
            command(plain, copy, methods=["temprature"])


def test_confidence_alone_goes_as_far_as_it_goes() -> None:
    """Numbers would be made up for what one confidence cannot tell, or the rest be lost."""
    validation, test = sure(sampled(500, 4, 2.0, 1)), sure(sampled(500, 4, 2.0, 2))
    found = strict(audit(test, **QUICK).findings)
    assert found["metrics"]["ece"]["value"] > 0.05
    for name in ("nll", "brier", "classwise_ece", "entropy"):
        cell = found["metrics"][name]
        assert cell["value"] is None
        assert cell["reason"]
    assert found["advice"]["method"] is found["temperature"] is None
    assert "confidence alone" in found["advice"]["reason"]
    assert found["selective"]["scores"]["msp"]["aurc"] > 0
    assert found["selective"]["scores"]["margin"]["reason"]
    decided = decide(validation, test, risk=0.3).findings
    assert decided["conformal"] is decided["calibrator"] is decided["costs"] is None
    assert list(decided["scores"]) == ["msp"]
    assert decided["threshold"]["test"]["coverage"]["value"] > 0
    with pytest.raises(LevelheadError, match=r"^calibrate: the outputs hold the confidence alone"):
        calibrate(validation, test)
    with pytest.raises(LevelheadError, match="costs: need the probabilities of all classes"):
        decide(validation, test, costs=of_errors(test.class_names))


@pytest.mark.parametrize(
    ("temperature", "opening"),
    [
        (2.0, "Overconfident: it claims"),
        (0.5, "Underconfident: it claims"),
        (1.0, "Cannot tell it from a calibrated model: it claims"),
    ],
)
def test_verdicts_of_worlds_that_are_known(temperature: float, opening: str) -> None:
    """A calibrated model would be called overconfident, or an overconfident one be praised."""
    found = audit(sampled(3000, 5, temperature), methods=["temperature"], **QUICK).findings
    assert found["words"][0].startswith(opening)


def test_right_on_average_is_not_calibrated() -> None:
    """Errors of both signs would cancel: a useless confidence would pass as calibrated."""
    draw = np.random.default_rng(0)
    claimed = draw.choice([0.6, 0.9], 4000)
    right = draw.random(4000) < 1.5 - claimed
    outputs = Outputs.from_confidence(claimed[:, None], np.zeros(4000, int), 1 - right)
    found = audit(outputs, **QUICK).findings
    assert found["words"][0].startswith("Right on average but not calibrated: it claims")
    assert found["calibrated"]["p_value"] < 0.05
    few = audit(sampled(10, 2, 2.5, 3), **QUICK).findings  # +20 points, which may be 0: not "right"
    assert few["words"][0].startswith("Not calibrated: it claims 89.7 % on average")


def test_few_examples_decide_nothing() -> None:
    """A handful of examples would be called proof, or end in a message about folds."""
    for n in (1, 2, 3, 5, 9):
        found = strict(audit(sampled(n, 3), **QUICK).findings)
        assert "too few to fit a calibrator" in found["advice"]["reason"]
        assert "no threshold can be named" in " ".join(found["words"])
        with pytest.raises(LevelheadError, match=f"^{n} examples? .* give at least 10"):
            calibrate(sampled(n, 3), sampled(50, 3, seed=1))
    one = calibrate(sampled(300, 3, 2.0), sampled(1, 3, seed=1), **QUICK)
    assert one.findings["words"][0].startswith("Cannot tell whether temperature calibration helps")
    assert decide(sampled(6, 3), sampled(50, 3, seed=1)).findings["calibrator"]["method"] == "none"
    with pytest.raises(LevelheadError, match="1 example: halves need at least 2"):
        decide(sampled(1, 3), sampled(50, 3, seed=1))


def test_a_class_without_examples_is_not_ruled_out() -> None:
    """Calibrators that treat classes apart would learn that the missing class never occurs."""
    whole = sampled(900, 3, 2.0, 1)
    some = whole.take((whole.labels != 1).nonzero()[:, 0])
    made = calibrate(some, sampled(600, 3, 2.0, 2), **QUICK)
    assert made.findings["method"] == "temperature"
    assert "1 of 3 classes have no example" in made.findings["reason"]
    before, after = (made.findings[when]["metrics"]["nll"]["value"] for when in ("before", "after"))
    assert after < before
    advice = audit(whole.take((whole.labels == 2).nonzero()[:, 0]), **QUICK).findings["advice"]
    names = {row["method"] for row in advice["ranking"]}
    assert names == {"none", "temperature"}


def test_odd_predictions_are_judged_all_the_same() -> None:
    """Zeros, ties, giants or certainty would end in a crash, NaN, or a proof from nothing."""
    outputs = sampled(200, 4)
    guess, y = outputs.predictions(), outputs.labels
    certain = np.eye(4)[guess]
    always = audit(Outputs.from_probabilities(certain, guess), **QUICK).findings
    assert always["words"][0].startswith("Cannot tell")  # 200 of 200 do not prove 100 %
    assert "0.0 to +1.9 points" in always["words"][0]
    for odd in (
        Outputs.from_probabilities(certain, y),
        Outputs.from_logits(np.zeros((200, 4)), y),
        Outputs.from_logits(outputs.scores.double() * 1e28, y),
        Outputs.from_logits(outputs.scores, outputs.scores.argmin(1)),
        Outputs.from_logits(outputs.scores, guess),
    ):
        found = strict(audit(odd, methods=["temperature"], **QUICK).findings)
        assert not re.search(r"\bnan\b|\binf\b", " ".join(found["words"]))
        assert max(map(len, found["words"])) < 400
        other = odd.take(np.arange(100)), odd.take(np.arange(100, 200))
        strict(decide(*other, methods=["temperature"]).findings)
    gap, ends = confidence_gap(Outputs.from_logits(outputs.scores[:1], [0]))
    assert -1 <= ends.low <= gap <= ends.high <= 1


def test_a_doubt_about_the_kind_comes_first() -> None:
    """Probabilities passed off as logits would be judged without a word of warning ahead."""
    outputs = sampled(60, 3)
    twice = Outputs.from_logits(outputs.probabilities(), outputs.labels)
    assert audit(twice, **QUICK).findings["words"][0].startswith("Careful: these logits")


@settings(max_examples=12, deadline=None)
@given(st.integers(10, 150), st.integers(2, 5), st.sampled_from([0.4, 1.0, 2.5]), st.integers(0, 9))
def test_words_tell_the_numbers_of_the_findings(
    n: int, k: int, temperature: float, seed: int
) -> None:
    """The sentences would say something else than the tables."""
    outputs = sampled(n, k, temperature, seed)
    found = audit(outputs, methods=["temperature"], **QUICK).findings
    said, metrics = " ".join(found["words"]), found["metrics"]
    accuracy = f"{100 * metrics['accuracy']['value']:.1f} %"
    assert f"is right in {accuracy} of {n:,} examples" in said
    low, high = (100 * metrics["accuracy"][end] for end in ("low", "high"))
    assert f"Accuracy {accuracy} (95 % interval {low:.1f} to {high:.1f} %)" in said
    claimed = float(outputs.rows.confidence.mean())
    assert f"it claims {100 * claimed:.1f} % on average" in said
    p = found["calibrated"]["p_value"]
    assert f"{100 * p:.0f} in 100 sets" in said if p >= 0.01 else "fewer than 1 in" in said
    after = found["advice"]["after"]
    if after is not None:
        change = after["nll"]["value"] - metrics["nll"]["value"]
        assert f"NLL {metrics['nll']['value']:.4f} to {after['nll']['value']:.4f}" in said
        assert f"a change of {change:+.4f}".replace("-", "−") in said
    kept = next(t for t in found["selective"]["thresholds"] if t["risk_wanted"] == 0.01)
    assert (kept["value"] is None) == ("no threshold can be named" in said)


def test_advice_is_cross_fitted() -> None:
    """The advice would rest on examples that fitted it."""
    outputs = sampled(90, 3, 2.0)
    after = cross_fitted(outputs, "temperature")
    ratio = (outputs.scores.double() / after.scores).mean(1)
    assert len(ratio.round(decimals=6).unique()) == 5  # five temperatures
    same = CALIBRATORS["temperature"].fit_outputs(outputs).apply(outputs)
    assert float(after.rows.nll.mean()) > float(same.rows.nll.mean())


def test_the_public_network_gets_the_published_numbers(real_data: Callable[[str], Path]) -> None:
    """The judge would be wrong on a network that others have judged, or forget the people."""
    path = real_data("predictions") / "resnet56_cifar10_test.csv"
    outputs = read_predictions(path, "probabilities")
    people = np.load(real_data("cifar10h") / "cifar10h-counts.npy")
    found = strict(audit(outputs.with_people(people), methods=["temperature"], **QUICK).findings)
    values = {name: cell["value"] for name, cell in found["metrics"].items()}
    assert values["accuracy"] == pytest.approx(0.9339)
    assert values["nll"] == pytest.approx(0.3458, abs=5e-5)
    assert values["ece"] == pytest.approx(0.0464, abs=5e-5)
    assert found["temperature"]["value"] == pytest.approx(2.45, abs=0.01)
    shares = people / people.sum(1, keepdims=True)
    cross = -(shares * np.log(np.maximum(outputs.probabilities().numpy(), 1e-300))).sum(1).mean()
    assert values["soft_nll"] == pytest.approx(cross)
    assert values["human_calibration"] > 0
    assert found["words"][0].startswith(
        "Overconfident: it claims 98.0 % on average and is right in"
    )


def test_audit_command_leaves_a_report(
    files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The folder would lack a part, a figure be unreadable, or --json tell something else."""
    out = tmp_path / "a" / "deep"
    words = ("audit", files["test"], "--outside", files["outside"], "--risk", "0.2", "--bins", "30")
    words += ("--methods", "temperature")
    said = told(capsys, *words, "--figures", "--out", str(out))
    found = json.loads((out / "findings.json").read_text(encoding="utf-8"))
    assert said.splitlines()[: len(found["words"])] == found["words"]
    report, then = said.splitlines()[-2:]
    assert report == f"Report: {out}/report.html"
    assert then == f"Next: levelhead calibrate VALIDATION --apply {files['test']}"
    assert {row["method"] for row in found["advice"]["ranking"]} == {"none", "temperature"}
    assert 0.2 in [row["risk_wanted"] for row in found["selective"]["thresholds"]]
    outputs = read_predictions(files["test"])
    mce = [judge(outputs, metrics=["mce"], bins=b)["metrics"]["mce"]["value"] for b in (30, 15)]
    assert found["metrics"]["mce"]["value"] == mce[0] != mce[1]
    looks_like_figures(out / "figures", FIGURES["audit"])
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;owl&lt;/b&gt;" in page
    assert "<b>owl" not in page
    assert "Examples from elsewhere" in page
    assert "rest on 30 bins" in page
    before = set(tmp_path.rglob("*"))
    alone = json.loads(told(capsys, *words, "--json"))
    assert set(tmp_path.rglob("*")) == before  # nothing is written
    for made in (alone, found):
        for row in made["advice"]["ranking"]:
            row.pop("seconds")
    assert alone == found
    assert "holds other files already" in fails(capsys, *words, "--out", str(out))


def looks_like_figures(folder: Path, kinds: int) -> None:
    """Every figure as PNG and SVG, neither empty."""
    stems = {path.stem for path in folder.iterdir()}
    assert {path.name for path in folder.iterdir()} == {
        name + end for name in stems for end in (".png", ".svg")
    }
    assert len({re.sub(r"-\d+$", "", name) for name in stems}) == kinds
    for name in stems:
        with Image.open(folder / f"{name}.png") as image:
            assert min(image.size) > 150
            low, high = image.convert("L").getextrema()
            assert low < 100 < 200 < high
        assert (folder / f"{name}.svg").read_text(encoding="utf-8").count("<path") > 3


def test_calibrate_command_leaves_what_it_made(
    files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The calibrator or the calibrated predictions could not be used afterwards."""
    words = ("calibrate", files["validation"], "--apply", files["test"])
    out = tmp_path / "c"
    said = told(capsys, *words, "--figures", "--out", str(out), "--methods", "temperature")
    names = {
        "findings.json",
        "report.html",
        "calibration.json",
        "calibrated.safetensors",
        "figures",
    }
    assert {path.name for path in out.iterdir()} == names
    found = json.loads((out / "findings.json").read_text(encoding="utf-8"))
    assert "held-out folds" in said
    looks_like_figures(out / "figures", FIGURES["calibrate"])
    after = read_predictions(out / "calibrated.safetensors")
    assert float(after.rows.nll.mean()) == pytest.approx(found["after"]["metrics"]["nll"]["value"])
    again = calibrator_of(json.loads((out / "calibration.json").read_text())).apply(
        read_predictions(files["test"])
    )
    assert float((again.log_probabilities() - after.log_probabilities()).abs().max()) < 1e-9
    assert "--apply TEST is missing" in fails(capsys, "calibrate", files["validation"])
    assert "are in validation too" in fails(capsys, *words[:3], files["validation"])
    alone = "the outputs hold the confidence alone"
    assert alone in fails(
        capsys, "calibrate", files["sure validation"], "--apply", files["sure test"]
    )


def test_decide_command(
    files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Costs, prices, sets or thresholds given as flags would not reach the page."""
    words = ["decide", files["validation"], "--apply", files["test"], "--methods", "temperature"]
    words += ["--costs", files["costs"], "--abstain-price", "0.4", "--alpha", "0.2"]
    words += ["--outside", files["outside"], "--risk", "0.15"]
    out = tmp_path / "d"
    said = told(capsys, *words, "--figures", "--out", str(out))
    found = json.loads((out / "findings.json").read_text(encoding="utf-8"))
    assert said.splitlines()[:-1] == found["words"]
    assert found["conformal"]["lac"]["fitted"]["alpha"] == 0.2
    assert found["threshold"]["set"]["risk_wanted"] == 0.15
    assert found["costs"]["abstained"] > 0
    looks_like_figures(out / "figures", FIGURES["decide"])
    page = (out / "report.html").read_text(encoding="utf-8")
    for part in ("Sets that hold the truth", "Cheapest choice", "Examples from elsewhere"):
        assert part in page
    assert json.loads(told(capsys, *words, "--json")) == found
    simple = ("decide", files["sure validation"], "--apply", files["sure test"], "--json")
    assert json.loads(told(capsys, *simple))["conformal"] is None


def test_a_run_instead_of_files(
    trained: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run would have to be exported before its own judge reads it."""
    few = ("--methods", "temperature")
    assert json.loads(told(capsys, "audit", trained, "--json", *few))["n"] > 300
    made = json.loads(told(capsys, "calibrate", trained, "--json", *few))
    assert made["calibration"] is None or made["calibration"]["fitted_on"] == "validation"
    out = str(tmp_path / "d")
    told(capsys, "decide", trained, *few, "--out", out)
    assert "levelhead decision" in (tmp_path / "d" / "report.html").read_text(encoding="utf-8")
    test = f"{trained}/outputs/test.safetensors"
    assert "the split 'test'" in fails(capsys, "calibrate", test, "--apply", test)
    assert "not a run folder" in fails(capsys, "audit", str(tmp_path))


def test_groups_and_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A group would be judged with another's examples, or what annotators said go unread."""
    outputs = sampled(90, 3)
    lines = ["a,b,c,label,camera"]
    cameras = [f"cam {min(i, 1)}" if i < 60 else "" for i in range(90)]
    for row, label, camera in zip(outputs.scores.tolist(), outputs.labels, cameras, strict=True):
        lines.append(",".join([*map(repr, row), "abc"[label], camera]))
    table = tmp_path / "grouped.csv"
    table.write_text("\n".join(lines) + "\n")
    np.save(tmp_path / "people.npy", np.random.default_rng(0).integers(0, 9, (90, 3)) + 1)
    words = (
        "audit",
        str(table),
        "--methods",
        "temperature",
        "--logits",
        "--group-column",
        "camera",
    )
    out = tmp_path / "g"
    told(capsys, *words, "--people", str(tmp_path / "people.npy"), "--out", str(out))
    found = json.loads((out / "findings.json").read_text())
    assert {name: part["n"] for name, part in found["groups"].items()} == {
        "": 30,
        "cam 0": 1,
        "cam 1": 59,
    }
    part = outputs.take(np.arange(1, 60)).rows.correct.mean()
    assert found["groups"]["cam 1"]["metrics"]["accuracy"]["value"] == pytest.approx(float(part))
    assert found["metrics"]["human_calibration"]["value"] is not None
    assert "(none)" in (out / "report.html").read_text(encoding="utf-8")
    for wrong, message in (
        (np.ones((89, 3)), "shape (89, 3) for 90 predictions of 3 classes"),
        (-np.ones((90, 3)), "row 0: the label distribution must hold counts"),
    ):
        np.save(tmp_path / "wrong.npy", wrong)
        assert message in fails(capsys, *words, "--people", str(tmp_path / "wrong.npy"))
    (tmp_path / "header.csv").write_text("a,b,c\n1,2,3\n")
    assert "shape (1, 3) for 90" in fails(capsys, *words, "--people", str(tmp_path / "header.csv"))
    assert "check the path" in fails(capsys, *words, "--people", str(tmp_path / "none.npy"))
    assert "no column 'lens'" in fails(capsys, *words[:-1], "lens")
    table.write_text("a,b,label,model\n1,2,a,resnet\n")
    said = fails(capsys, "audit", str(table), "--logits")
    assert "the column 'model' is no numbers" in said
    assert "'resnet'" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--risk", "0"], "risk 0.0: must be between 0 and 1"),
        (["--risk", "nan"], "risk nan: must be between 0 and 1"),
        (["--bins", "0"], "bins 0: must be from 1 to 1,000"),
        (["--bins", "1000000"], "bins 1000000: must be from 1 to 1,000"),
        (["--methods", "temprature"], "did you mean 'temperature'?"),
        (["--people", "gone.npy"], "gone.npy: no such file"),
        (["--probabilities"], "holds logits, not probabilities; leave out --probabilities"),
        (["--outside", "gone.npz"], "gone.npz: no such file"),
    ],
)
def test_mistakes_leave_one_line_and_no_folder(
    words: list[str],
    message: str,
    files: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A mistake would end in a traceback, pass unnoticed, or leave an empty folder behind."""
    monkeypatch.chdir(tmp_path)
    assert message in fails(capsys, "audit", files["test"], *words)
    assert not list((tmp_path / "runs").glob("*"))


def test_a_place_that_cannot_be_is_refused_before_the_work(
    files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """A long judgement would be lost for a folder that was full from the beginning."""
    monkeypatch.setattr("levelhead.judging.audit", None)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    assert "holds other files" in fails(
        capsys, "audit", files["test"], "--out", str(tmp_path / "full")
    )
    assert "cannot be made" in fails(
        capsys, "audit", files["test"], "--out", str(tmp_path / "full" / "x" / "y")
    )


def test_a_result_is_what_the_command_delivers(tmp_path, capsys):
    """The library could not do what the command can, or would do it otherwise."""
    outputs = sampled(200, 4, 2.0)
    outputs.save(tmp_path / "p.safetensors")
    words = ["audit", str(tmp_path / "p.safetensors"), "--methods", "temperature"]
    assert run([*words, "--out", str(tmp_path / "command")]) == 0
    printed = capsys.readouterr().out
    result = audit(outputs, methods=["temperature"])
    result.save(tmp_path / "library")
    levelhead.write_judgement(result, tmp_path / "library", title="p.safetensors")
    ours, theirs = (
        (tmp_path / way / "findings.json").read_text() for way in ("library", "command")
    )
    ours, theirs = json.loads(ours), json.loads(theirs)
    for findings in (ours, theirs):
        for row in findings["advice"]["ranking"]:
            del row["seconds"]  # the clock's
    assert ours == theirs
    assert (tmp_path / "library" / "report.html").exists()
    assert printed.startswith("\n".join(result.words))
    assert result.method in ("temperature", "none")
    accuracy = result.metrics["accuracy"]
    assert accuracy.low <= accuracy.value <= accuracy.high
    with pytest.warns(DeprecationWarning, match="findings"):
        assert result["n"] == 200
    done = calibrate(sampled(200, 4, 2.0, seed=1), sampled(200, 4, 2.0, seed=2), ["temperature"])
    done.save(tmp_path / "calibrated")
    assert (tmp_path / "calibrated" / "calibrated.safetensors").exists()
    assert done.after["nll"].value == done.findings["after"]["metrics"]["nll"]["value"]
