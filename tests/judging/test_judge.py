"""Judgements, reports and sentences."""

from __future__ import annotations

import dataclasses
import importlib
import json

import numpy as np
import pytest
from scipy.special import softmax
from sklearn import metrics as sk

from levelhead.calibrators import CALIBRATORS, Temperature
from levelhead.judging import (
    audit,
    classification_report,
    confidence_gap,
    judge,
    run_findings,
    words,
)
from levelhead.metrics import METRICS
from levelhead.metrics.counts import confusion
from levelhead.outputs import Outputs
from levelhead.outputs.read import read_predictions
from levelhead.statistics.examples import wilson
from worlds import sampled


def strict(found: dict) -> dict:
    """As JSON and back; raises on NaN and Infinity."""
    return json.loads(json.dumps(found, allow_nan=False))


@pytest.mark.parametrize(("n", "k"), [(30, 2), (200, 10), (40, 1000), (1, 3)])
def test_judgement_has_the_schema(n, k):
    """Readers of the JSON would miss keys, or meet NaN."""
    found = strict(judge(sampled(n, k), resamples=50))
    assert list(found) == [
        "schema",
        "n",
        "classes",
        "class_names",
        "interval",
        "metrics",
        "temperature",
    ]
    assert (found["schema"], found["n"], found["classes"]) == (1, n, k)
    assert (found["interval"]["level"], found["interval"]["resamples"]) == (0.95, 50)
    assert list(found["metrics"]) == list(METRICS)
    for name, metric in found["metrics"].items():
        if metric["value"] is None:
            assert metric["low"] is metric["high"] is None
            assert metric["reason"]
        elif METRICS[name].interval != "none":
            low, high = metric["low"], metric["high"]
            assert name in found["interval"]["method"]
            if n == 1 and METRICS[name].interval != "wilson":
                assert low is high is None or low < (high or np.inf)  # none, or one with width
                continue
            assert low <= high
            assert METRICS[name].interval != "wilson" or low <= metric["value"] <= high


def test_judgement_is_repeatable_and_says_what_was_applied():
    """Two readings of one run would differ; a calibrated judgement look like a plain one."""
    outputs = sampled(300, 4, 2.0)
    assert judge(outputs) == judge(outputs)
    calibrator = Temperature.fit_on(sampled(300, 4, 2.0, seed=1, split="validation"))
    after = strict(judge(outputs, calibrator=calibrator))
    assert after["temperature"]["value"] == calibrator.temperature
    assert after["temperature"]["fitted_on"] == "validation"
    assert after["temperature"]["n"] == 300
    expected = judge(calibrator.apply(outputs))
    assert after["metrics"] == strict(expected)["metrics"]
    assert judge(outputs)["temperature"] is None


def test_an_infinite_nll_is_null_with_its_reason():
    """Saturated probabilities would crash the audit, or put Infinity into JSON."""
    p = np.array([[1.0, 0], [1, 0], [0, 1], [0.5, 0.5]] * 5)
    found = strict(audit(Outputs.from_probabilities(p, [0, 1, 1, 0] * 5), resamples=50).findings)
    assert found["metrics"]["nll"]["value"] is None
    assert "exactly 0 in 5 of 20 rows" in found["metrics"]["nll"]["reason"]
    assert found["metrics"]["brier"]["value"] is not None
    assert found["temperature"] is None
    assert found["advice"]["after"] is None
    assert "exactly 0" in found["advice"]["reason"]
    assert any(sentence.startswith("No calibrator: row 1") for sentence in found["words"])


def test_report_and_confusion_agree_with_scikit_learn():
    """Precision, recall, F1 or support of a class would be another's."""
    outputs = sampled(400, 5)
    outputs = outputs.take(np.flatnonzero(outputs.labels.numpy() != 3))  # a class without examples
    scores = outputs.scores.clone()
    scores[:, 1] = -100.0  # a class never predicted
    outputs = Outputs.from_logits(scores, outputs.labels, "abcde")
    y, guess = outputs.labels.numpy(), outputs.predictions().numpy()
    names = list(range(5))
    assert confusion(outputs).tolist() == sk.confusion_matrix(y, guess, labels=names).tolist()
    expected = sk.classification_report(
        y, guess, labels=names, target_names=list("abcde"), output_dict=True, zero_division=np.nan
    )
    found = strict(classification_report(outputs))
    rows = {row["name"]: row for row in found["classes"]}
    rows |= {f"{kind} avg": found[kind] for kind in ("macro", "weighted")}
    for name, row in rows.items():
        for ours, theirs in (("precision", "precision"), ("recall", "recall"), ("f1", "f1-score")):
            value = np.nan if row[ours] is None else row[ours]
            assert value == pytest.approx(expected[name][theirs], nan_ok=True), (name, ours)
        assert row.get("support", expected[name]["support"]) == expected[name]["support"]
    assert rows["b"]["precision"] is None
    assert rows["d"]["recall"] is None


def test_words_name_over_and_underconfidence_and_doubt():
    """A calibrated model would be called overconfident, or an overconfident one be praised."""
    for temperature, verdict in ((2.5, "overconfident"), (0.4, "underconfident")):
        said = words(sampled(3000, 5, temperature), resamples=200)
        assert any(s.startswith(f"As it is: {verdict}") for s in said)
    said = words(sampled(3000, 5), resamples=200)
    assert any(s.startswith("As it is: cannot tell") for s in said)


def test_no_error_among_few_is_no_proof_of_underconfidence():
    """36 of 36 right at 97 % confidence would be called underconfident by a plain bootstrap."""
    z = np.zeros((36, 3))
    z[:, 0] = np.log(0.97 / 0.015)
    outputs = Outputs.from_logits(z, [0] * 36)
    gap, found = confidence_gap(outputs)
    assert gap == pytest.approx(-0.03)
    assert found.low < 0 < found.high
    said = words(outputs)
    assert "No class has an error." in said
    assert said[1].startswith("No answer is wrong: NLL")
    assert any("As it is: cannot tell" in sentence for sentence in said)


def test_words_name_the_weakest_class():
    """The sentence would name a class that is not the weakest, or other counts."""
    z = np.eye(3)[[0] * 10 + [1] * 10 + [0] * 4 + [2] * 6] * 4
    y = [0] * 10 + [1] * 10 + [2] * 10
    said = words(Outputs.from_logits(z, y, ["cat", "dog", "owl"], split="test"), resamples=50)
    assert said[0].startswith("Accuracy 86.7 % (95 % interval 70.3 to 94.7 %): 26 of 30 test")
    assert said[1].startswith("Only 4 answers are wrong: ")
    assert said[1].endswith("about 75 examples would hold 10.")
    low, high = wilson(6, 10, 1 - 0.05 / 3)  # picked as the weakest of three
    ends = f"interval {100 * low:.1f} to {100 * high:.1f} %, corrected for 3 classes"
    assert said[2].startswith(f"Weakest class: owl, 6 of 10 found (60.0 %, {ends})")
    assert said[2].endswith("most often taken for cat (4).")


def test_probabilities_passed_off_as_logits_are_noticed():
    """A softmax applied twice would be judged as an underconfident model, without a word."""
    outputs = sampled(50, 4)
    twice = Outputs.from_logits(outputs.probabilities(), outputs.labels)
    assert words(twice, resamples=50)[0].startswith("Careful: these logits")
    assert not words(outputs, resamples=50)[0].startswith("Careful")


def test_audit_advises_by_cross_fitting():
    """Advice would be judged on the examples that it was fitted on, and always look good."""
    outputs = sampled(400, 3, 2.0)
    found = strict(audit(outputs, methods=["temperature"], resamples=50).findings)
    advice = found["advice"]
    assert advice["text"] == "advice, not applied"
    assert found["temperature"]["fitted_on"] == "these examples: advice, not applied"
    fitted = Temperature.fit_outputs(outputs)
    assert found["temperature"]["value"] == fitted.temperature
    same_examples = judge(fitted.apply(outputs), resamples=50)["metrics"]["nll"]["value"]
    before = judge(outputs, resamples=50)["metrics"]
    assert same_examples < advice["after"]["nll"]["value"] < advice["before"]["nll"]["value"]
    assert found["metrics"] == strict(before)
    assert any("advice, not applied" in sentence for sentence in found["words"])
    tiny = strict(audit(sampled(5, 3), resamples=50).findings)
    assert tiny["advice"]["reason"].startswith("5 examples are too few")
    assert tiny["advice"]["after"] is tiny["advice"]["method"] is None


def test_audit_of_probabilities_equals_that_of_their_logits():
    """One model would get two verdicts."""
    outputs = sampled(200, 4, 2.0)
    other = Outputs.from_probabilities(softmax(outputs.scores.double(), axis=1), outputs.labels)
    one, two = audit(outputs, resamples=50).findings, audit(other, resamples=50).findings
    for name in ("nll", "brier", "ece"):
        for when in ("before", "after"):
            expected = one["advice"][when][name]["value"]
            assert two["advice"][when][name]["value"] == pytest.approx(expected, rel=1e-6)


def test_run_findings_hold_before_and_after():
    """findings.json would lack what the report and the comparison read."""
    validation = sampled(300, 4, 2.0, split="validation")
    test = sampled(500, 4, 2.0, seed=1, split="test")
    counts = {"train": 900, "validation": 300, "test": 500}
    calibrator = Temperature.fit_on(validation)
    found = strict(run_findings(validation, test, calibrator, 1.5, float("inf"), counts))
    assert list(found) == [
        "schema",
        "train",
        "validation",
        "test",
        "test_calibrated",
        "calibrator",
        "policy",
        "seconds",
        "images_per_second",
        "report",
        "words",
    ]
    assert (found["train"], found["seconds"]) == (counts, 1.5)
    assert found["images_per_second"] is None
    plain, after = (found[name]["metrics"] for name in ("test", "test_calibrated"))
    assert plain["accuracy"] == after["accuracy"]
    assert after["nll"]["value"] < plain["nll"]["value"]
    assert found["calibrator"]["method"] in ("temperature", "svs", "sms")
    assert found["calibrator"]["test"]["metrics"]["nll"]["value"] < plain["nll"]["value"]
    assert any(" calibration helps: NLL" in s for s in found["words"])
    few = sampled(9, 4, 2.0, split="validation")
    left = run_findings(few, test, calibrator, 1, 1, counts)["calibrator"]
    assert (left["method"], left["calibration"], left["test"]) == ("none", None, None)
    assert "too few" in left["reason"]
    alone = run_findings(validation, test, None, 1, 1, counts)
    assert alone["test_calibrated"] is None


def test_somebody_elses_network_is_overconfident(real_data):
    """The public ResNet-56 would be called calibrated, or its temperature be missed."""
    path = real_data("predictions") / "resnet56_cifar10_test.csv"
    outputs = read_predictions(path, "probabilities")
    found = strict(audit(outputs, methods=["temperature"], resamples=200).findings)
    assert found["metrics"]["ece"]["value"] == pytest.approx(0.0464, abs=1e-4)
    assert found["metrics"]["ece"]["low"] > 0.04
    assert 2.3 < found["temperature"]["value"] < 2.6
    assert found["advice"]["after"]["nll"]["high"] < found["advice"]["before"]["nll"]["low"]
    said = " ".join(found["words"])
    assert "Weakest class: cat, 861 of 1,000 found" in said
    assert "most often taken for dog" in said
    assert said.startswith("Overconfident: it claims 98.0 % on average and is right in 93.4 % of ")


def test_sets_of_too_few_examples_say_why_they_hold_every_class():
    """ "Sets have 5.00 classes on average" would read as a finding, not as a lack of examples."""
    from levelhead.judging import decide

    rng = np.random.default_rng(0)
    p = softmax(rng.normal(0, 2, (112, 5)), 1)
    y = [int(rng.choice(5, p=row)) for row in p]
    validation, test = (
        Outputs.from_probabilities(p[part], y[part]) for part in (slice(12), slice(12, None))
    )
    words = " ".join(decide(validation, test, alpha=0.01).words)
    assert "hold all classes: they are set on 6 examples, and it takes 99 or more" in words
    assert "classes on average" in " ".join(decide(test, validation, alpha=0.1).words)


def test_notes_on_how_predictions_were_read_come_first():
    """That −inf or rounding was dealt with would stay in the reader."""
    from levelhead.judging import calibrate, decide

    rng = np.random.default_rng(0)
    z = rng.normal(0, 2, (60, 3))
    z[:, 2] = -np.inf
    outputs = Outputs.from_logits(z, rng.integers(0, 2, 60))
    note = "Logits of −inf in 60 rows are probability 0."
    halves = outputs.take(np.arange(30)), outputs.take(np.arange(30, 60))
    for result in (audit(outputs), calibrate(*halves), decide(*halves)):
        assert note in result.words


def test_of_very_many_the_advice_rests_on_some(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file larger than memory would be copied whole to be calibrated; or the sample be silent."""
    module = importlib.import_module("levelhead.judging.audit")
    outputs = sampled(900, 4, 3.0)
    whole = module.audit(outputs, resamples=50)
    monkeypatch.setattr(module, "RANKED", 300)
    monkeypatch.setattr(module, "CALIBRATED", 600)
    some = module.audit(outputs, resamples=50)
    assert some.after is not None
    assert len(some.after) == some.findings["advice"]["n"] == 300
    assert some.metrics == whole.metrics
    assert some.findings["temperature"] == whole.findings["temperature"]
    assert any(line.startswith("On 300 examples drawn at random: ") for line in some.words)
    before = some.findings["advice"]["before"]
    assert before["nll"]["value"] == pytest.approx(whole.metrics["nll"].value, abs=0.4)
    assert before["nll"] != whole.findings["metrics"]["nll"]
    monkeypatch.setattr(module, "CALIBRATED", 900)
    ranked = module.audit(outputs, resamples=50)  # ranked on some, calibrated whole
    assert ranked.after is not None
    assert len(ranked.after) == 900


def test_temperature_of_probabilities_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more probabilities than are copied the temperature would be another."""
    outputs = sampled(500, 5, 3.0)
    soft = Outputs.from_probabilities(outputs.probabilities(), outputs.labels)
    grouped = dataclasses.replace(soft, groups=tuple(f"g{i // 4}" for i in range(500)))
    for each in (soft, grouped):
        whole = CALIBRATORS["temperature"].fit_outputs(each)
        monkeypatch.setattr("levelhead.calibrators.temperature._COPIED", 0)
        assert CALIBRATORS["temperature"].fit_outputs(each) == whole
        monkeypatch.undo()
