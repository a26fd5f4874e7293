"""Findings as sentences that a practitioner can act on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from levelhead.calibrators import Calibrator
from levelhead.judging.judge import confidence_gap
from levelhead.metrics.counts import confusion
from levelhead.outputs import Outputs
from levelhead.statistics.examples import mean_interval, wilson


def words(
    outputs: Outputs,
    *,
    after: Outputs | None = None,
    calibrator: Calibrator | None = None,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> list[str]:
    """What a run found; `after` are the same outputs, calibrated."""
    choices: dict[str, Any] = {"level": level, "resamples": resamples, "seed": seed}
    sentences = [doubt(outputs), *about(outputs, level), gap_words("As it is", outputs, **choices)]
    if calibrator is not None and after is not None:
        sentences.append(calibrator.sentence())
        sentences.append(gap_words("After temperature", after, **choices))
        sentences.append(nll_change(outputs, after, "temperature", **choices))
    return [sentence for sentence in sentences if sentence]


def doubt(outputs: Outputs) -> str:
    """What has to be said before all else: these may be probabilities, passed off as logits."""
    if not outputs.look_like_probabilities():
        return ""
    return (
        "Careful: these logits lie between 0 and 1 and add up to 1 in every row; if they are "
        "probabilities, the figures below on confidence are wrong: say so and judge again."
    )


def about(outputs: Outputs, level: float = 0.95) -> list[str]:
    """How many are right, and which class is the weakest."""
    n, k = len(outputs), outputs.classes
    what = f"{outputs.split} examples" if outputs.split else "examples"
    right = int(outputs.rows.correct.sum())
    low, high = wilson(right, n, level)
    return [
        f"Accuracy {_percent(right / n)} ({level * 100:g} % interval {_range(low, high)}): "
        f"{right:,} of {n:,} {what} of {k} classes right.",
        _weakest(outputs, level),
    ]


def verdict(
    outputs: Outputs,
    calibrated: Mapping[str, Any],
    *,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> str:
    """Over- or underconfident, by how much, and whether the data can tell.

    `calibrated` holds the `ece`, the `p_value` of the test that the model is calibrated, `needed`.
    """
    gap, interval = confidence_gap(outputs, level=level, resamples=resamples, seed=seed)
    sure, right = _sure_and_right(outputs)
    n, p = len(outputs), calibrated["p_value"]
    of = f"{n:,} example{'s' if n > 1 else ''}"
    claim = f"it claims {_percent(sure)} on average and is right in {_percent(right)}"
    ends = f"{level * 100:g} % interval {interval.low * 100:+.1f} to {interval.high * 100:+.1f}"
    chance = f"{p * 100:.0f} in 100" if p >= 0.01 else f"fewer than 1 in {math.ceil(1 / p) - 1:,}"
    test = f"a calibrated model would look at least this wrong in {chance} sets of {of}"
    alpha = 1 - level
    if not interval.low <= 0 <= interval.high:
        way = "Overconfident" if gap > 0 else "Underconfident"
        much = f"{abs(gap) * 100:.1f} points too {'sure' if gap > 0 else 'unsure'} ({ends})"
        return f"{way}: {claim} of {of}, {much}; {test}."
    if p < alpha and abs(gap) < calibrated["ece"] / 2:
        return (
            f"Right on average but not calibrated: {claim} of {of} ({ends} points), yet too sure "
            f"at some confidences and not sure enough at others; {test}."
        )
    if p < alpha:
        return (
            f"Not calibrated: {claim} of {of} ({ends} points: they cannot tell whether it is too "
            f"sure or too unsure on average); {test}."
        )
    needed = calibrated["needed"]
    more = f" Were the error seen real, about {needed:,} examples would show it." if needed else ""
    return f"Cannot tell it from a calibrated model: {claim} of {of} ({ends} points); {test}.{more}"


def threshold_words(selective: Mapping[str, Any], risk: float) -> str:
    """At which confidence to act so that no more than `risk` is wrong, and how often that is."""
    threshold = next(t for t in selective["thresholds"] if t["risk_wanted"] == risk)
    lead = f"For answers of which {(1 - risk) * 100:g} % are right"
    if threshold["keeps"] == "nothing":
        return f"{lead}, no threshold can be named: {threshold['reason']}."
    odds = f"(holds with {(1 - threshold['delta']) * 100:g} % probability for examples like these)"
    if threshold["keeps"] == "everything":
        return f"{lead}, act on every answer {odds}."
    return (
        f"{lead}, act where the confidence is at least {sharp(threshold['value'])}, which is "
        f"{_percent(threshold['coverage'])} of them, and hand on the rest {odds}."
    )


def decision_words(found: Mapping[str, Any], risk: float, alpha: float) -> list[str]:
    """What `decide` found, in sentences."""
    best = found["threshold"]
    sentences = [threshold_words({"thresholds": [best["set"]]}, risk)]
    test = best["test"]
    if test["risk"]["value"] is not None:
        low, high = test["risk"]["low"], test["risk"]["high"]
        sentences.append(
            f"On {test['n']:,} test examples it keeps {_percent(test['coverage']['value'])}, of "
            f"which {_percent(test['risk']['value'])} are wrong (interval {_range(low, high)}): "
            f"{test['errors_kept']:,} of {test['n_kept']:,}."
        )
    if (norm := found.get("pnorm")) is not None:
        sentences.append(
            "No p-norm of the logits ranked the answers better than the top probability."
            if norm["p"] is None
            else f"The {norm['p']}-norm of the logits ranks the answers better than the top "
            f"probability (AURC {norm['aurc']:.5f} against {norm['aurc_msp']:.5f} where it was "
            "chosen)."
        )
    if found["conformal"] is not None:
        name, sets = min(found["conformal"].items(), key=lambda i: i[1]["test"]["size"]["value"])
        aurocs, worst = sets["test"], sets["test"]["worst_class"]
        sentences.append(
            f"Sets that hold the true class in {_percent(1 - alpha)} of cases have "
            f"{aurocs['size']['value']:.2f} classes on average ({name.upper()}); on test they do "
            f"in {_percent(aurocs['coverage']['value'])} (interval "
            f"{_range(aurocs['coverage']['low'], aurocs['coverage']['high'])}), least in class "
            f"{worst['name']}: {_percent(worst['coverage']['value'])} of {worst['n']:,}."
        )
    if (price := found["costs"]) is not None:
        saved = price["saved"]
        sure = "" if not saved["low"] <= 0 <= saved["high"] else "; the data cannot tell from 0"
        sentences.append(
            f"Choosing by cost instead of the likeliest class costs {price['cost']['value']:.4g} "
            f"an example instead of {price['argmax_cost']['value']:.4g}, "
            f"{saved['value']:.4g} saved (interval {saved['low']:.4g} to {saved['high']:.4g}{sure})"
            f", with {_percent(price['abstained'])} abstained; the model expected "
            f"{price['expected']['value']:.4g}, "
            f"{'which chance explains' if price['believable'] else 'too low to be chance'}."
        )
    if (outside := found["outside"]) is not None:
        aurocs = {n: v for n, v in outside.items() if n != "n" and v["auroc"]["value"] is not None}
        if aurocs:
            name, best = max(aurocs.items(), key=lambda item: item[1]["auroc"]["value"])
            sentences.append(
                f"Other examples are told apart best by {name.replace('_', ' ')}: AUROC "
                f"{best['auroc']['value']:.3f} (interval {best['auroc']['low']:.3f} to "
                f"{best['auroc']['high']:.3f}); at the threshold that keeps 95 % of the test "
                f"examples, {_percent(best['fpr_at_95_tpr']['value'])} of the others pass, too."
            )
    return sentences


def sharp(certainty: float) -> str:
    """The confidence 1 − e^(−certainty) with as many digits as tell it from 1.

    >>> sharp(2.0), sharp(14.0)
    ('0.8647', '0.9999991685')
    """
    digits = 3 + max(1, math.ceil(certainty / math.log(10)))
    return f"{-math.expm1(-certainty):.{min(digits, 17)}f}"


def _weakest(outputs: Outputs, level: float) -> str:
    """The class with the lowest recall, what it is taken for, and whether that is sure."""
    counts = confusion(outputs)
    support = counts.sum(1)
    recall = counts.diagonal() / support
    k = int(recall.nan_to_num(2.0).argmin())
    hits, of = int(counts[k, k]), int(support[k])
    if hits == of:
        return "No class has an error."
    low, high = wilson(hits, of, level)
    wrong = counts[k].clone()
    wrong[k] = 0
    other = int(wrong.argmax())
    names = outputs.class_names
    sentence = (
        f"Weakest class: {names[k]}, {hits:,} of {of:,} found ({_percent(hits / of)}, interval "
        f"{_range(low, high)}), most often taken for {names[other]} ({int(wrong[other]):,})."
    )
    absent = int((support == 0).sum())
    if absent:
        sentence += f" {absent} of {len(names)} classes have no example here."
    return sentence


def gap_words(lead: str, outputs: Outputs, **choices: Any) -> str:
    """Over- or underconfident, by how much."""
    gap, interval = confidence_gap(outputs, **choices)
    sure, right = _sure_and_right(outputs)
    numbers = (
        f"mean confidence {_percent(sure)} against accuracy {_percent(right)}, "
        f"{gap * 100:+.1f} points "
        f"(interval {interval.low * 100:+.1f} to {interval.high * 100:+.1f})"
    )
    if interval.low <= 0 <= interval.high:
        return f"{lead}: cannot tell whether over- or underconfident: {numbers}."
    return f"{lead}: {'over' if gap > 0 else 'under'}confident: {numbers}."


def nll_change(
    before: Outputs, after: Outputs, method: str, *, advice: bool = False, **choices: Any
) -> str:
    """Whether the NLL fell, example by example; with `advice`, whether it would.

    Too few examples cannot tell, whatever the bootstrap says: all of 5 change one way by chance in
    1 of 16 sets.
    """
    change = after.rows.nll - before.rows.nll
    if not bool(change.isfinite().all()):
        return ""
    interval = mean_interval(change, **choices)
    first, last = float(before.rows.nll.mean()), float(after.rows.nll.mean())
    numbers = (
        f"NLL {_nats(first)} to {_nats(last)}, a change of {_nats(last - first, '+')} "
        f"(interval {_nats(interval.low, '+')} to {_nats(interval.high, '+')})"
    )
    method = method.replace("_", " ")
    few = 2.0 ** (1 - len(change)) > 1 - choices["level"]
    if few or interval.low <= 0 <= interval.high:
        return f"Cannot tell whether {method} calibration helps: {numbers}."
    would = ("would help", "would harm") if advice else ("helps", "harms")
    return f"{method.capitalize()} calibration {would[last >= first]}: {numbers}."


def _sure_and_right(outputs: Outputs) -> tuple[float, float]:
    """Mean confidence, and accuracy."""
    return float(outputs.rows.confidence.mean()), float(outputs.rows.correct.mean())


def _nats(value: float, sign: str = "") -> str:
    return f"{value:{sign}.4f}" if abs(value) < 1e6 else f"{value:{sign}.4g}"


def _percent(share: float) -> str:
    return f"{share * 100:.1f} %"


def _range(low: float, high: float) -> str:
    return f"{low * 100:.1f} to {high * 100:.1f} %"
