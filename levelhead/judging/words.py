"""Findings as sentences that a practitioner can act on."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from levelhead.calibrators import Calibrator, spoken
from levelhead.calibrators.choose import costs_of_errors
from levelhead.decisions.scores import find_score
from levelhead.judging.judge import confidence_gap
from levelhead.metrics.counts import class_counts, taken_for
from levelhead.outputs import Outputs
from levelhead.statistics.examples import (
    FEW_ERRORS,
    mean_interval,
    share_interval,
    with_unseen_errors,
)
from levelhead.text import interval_text, interval_texts, isolated

FEW_GROUPS = 10


def words(
    outputs: Outputs,
    *,
    after: Outputs | None = None,
    calibrator: Calibrator | None = None,
    reason: str = "",
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> list[str]:
    """What a run found; `after` are the same outputs, calibrated for that `reason`."""
    choices: dict[str, Any] = {"level": level, "resamples": resamples, "seed": seed}
    sentences = [doubt(outputs), *about(outputs, level), gap_words("As it is", outputs, **choices)]
    sentences.append(reason)
    if calibrator is not None and after is not None:
        method = spoken(calibrator.method)
        sentences.append(calibrator.sentence())
        sentences.append(gap_words(f"After {method}", after, **choices))
        sentences.append(nll_change(outputs, after, calibrator.method, **choices))
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
    low, high = share_interval(outputs.rows.correct, level, outputs.units)
    return [
        *outputs.notes,
        f"Accuracy {_percent(right / n)} ({level * 100:g} % interval {_range(low, high)}): "
        f"{right:,} of {n:,} {what}{'' if outputs.anonymous else f' of {k} classes'} right.",
        _few_errors(n, n - right),
        _grouped(outputs),
        _weakest(outputs, level),
    ]


def _few_errors(n: int, errors: int) -> str:
    """What rests on a handful of errors, and how many examples would hold enough of them."""
    if errors >= FEW_ERRORS:
        return ""
    rests = "NLL, Brier score, AURC and everything on calibration rest"
    if errors == 0:
        return (
            f"No answer is wrong: {rests} on none, and their intervals reach up to what may come."
        )
    wrong = f"Only {errors} answer{'s are' if errors > 1 else ' is'} wrong"
    needed = math.ceil(FEW_ERRORS * n / errors)
    return (
        f"{wrong}: {rests} on {'these' if errors > 1 else 'it'}; about {needed:,} examples would "
        f"hold {FEW_ERRORS}."
    )


def _grouped(outputs: Outputs) -> str:
    """That examples come in groups, and what follows from it."""
    if outputs.units is None:
        return _looks_grouped(outputs)
    count = int(outputs.units.max()) + 1
    few = "; so few that intervals are wide" if count < FEW_GROUPS else ""
    kept = "intervals, folds and halves keep them whole"
    return f"The examples come in {count:,} groups: {kept}{few}."


def _looks_grouped(outputs: Outputs) -> str:
    """A note where ids look like those of a few things, said of several examples each."""
    if outputs.groups is not None or outputs.ids is None:
        return ""
    stems = [re.sub(r"[^\W\d_]*\d+(\.\w+)?$", "", name) for name in outputs.ids]
    kinds = {stem for stem in stems if re.search(r"\d", stem)}
    numbered = sum(stem in kinds for stem in stems)
    if numbered < len(stems) or not 2 <= len(kinds) <= len(stems) / 2:
        return ""
    return (
        f"The ids look like those of {len(kinds):,} groups (first: {stems[0]!r}); if their "
        "examples are not independent, say so (--group-column, or groups=): intervals are too "
        "narrow else."
    )


def verdict(
    outputs: Outputs,
    calibrated: Mapping[str, Any],
    *,
    sides: Mapping[str, Mapping[str, Any]] | None = None,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> str:
    """Over- or underconfident, by how much, and whether the data can tell.

    `calibrated` holds the `ece`, the `p_value` of the test that the model is calibrated, `needed`;
    `sides` the metrics overconfidence and underconfidence: where the mean hides that a model errs
    in both ways, both are said.
    """
    gap, interval = confidence_gap(outputs, level=level, resamples=resamples, seed=seed)
    sure, right = _sure_and_right(outputs)
    n, p = len(outputs), calibrated["p_value"]
    of = f"{n:,} example{'s' if n > 1 else ''}"
    claim = f"it claims {_percent(sure)} on average and is right in {_percent(right)}"
    low, high = (
        interval_texts(gap, interval.low, interval.high, digits=1, scale=100, sign=True)[1]
        .strip("[]")
        .split(", ")
    )
    ends = f"{level * 100:g} % interval {low} to {high}"
    chance = f"{p * 100:.0f} in 100" if p >= 0.01 else f"fewer than 1 in {math.ceil(1 / p) - 1:,}"
    test = f"a calibrated model would look at least this wrong in {chance} sets of {of}"
    alpha = 1 - level
    if not interval.low <= 0 <= interval.high:
        way = "Overconfident" if gap > 0 else "Underconfident"
        much = f"{abs(gap) * 100:.1f} points too {'sure' if gap > 0 else 'unsure'} ({ends})"
        return f"{way}: {claim} of {of}, {much}; {test}.{_other_side(gap, sides)}"
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


def _other_side(gap: float, sides: Mapping[str, Mapping[str, Any]] | None) -> str:
    """What the mean hides: that some confidences err the other way, where that is shown."""
    name, how = ("underconfidence", "unsure") if gap > 0 else ("overconfidence", "sure")
    entry = (sides or {}).get(name)
    if entry is None or not entry["low"]:
        return ""
    ends = interval_text(entry["value"], entry["low"], entry["high"], digits=1, scale=100)
    return f" But at some confidences it is too {how}: {name} {ends} points."


def threshold_words(selective: Mapping[str, Any], risk: float, whose: str = "") -> str:
    """Where to act so that no more than `risk` is wrong, and how often that is.

    In the unit of the threshold's score; `whose` says which confidence it is.
    """
    threshold = next(t for t in selective["thresholds"] if t["risk_wanted"] == risk)
    lead = f"For answers of which {(1 - risk) * 100:g} % are right"
    if threshold["keeps"] == "nothing":
        return f"{lead}, no threshold can be named: {threshold['reason']}."
    odds = (
        f"(holds with {(1 - threshold['delta']) * 100:.4g} % probability for examples like these)"
    )
    if threshold["keeps"] == "everything":
        return f"{lead}, act on every answer {odds}."
    where = find_score(threshold["score"]).at_least(threshold["value"])
    where = where.replace("the confidence", f"the {whose}confidence")
    return (
        f"{lead}, act where {where}, which is "
        f"{_percent(threshold['coverage'])} of them, and hand on the rest {odds}."
    )


def decision_words(
    found: Mapping[str, Any], risk: float, alpha: float, *, thresholds: bool = True
) -> list[str]:
    """What `decide` found, in sentences; without `thresholds` where a policy's stands alone (that
    on the model's own confidence is for who has no policy)."""
    chosen, raw = found["threshold"] if thresholds else None, found["raw_threshold"]
    sentences = []
    if found["calibrator"] is not None:
        sentences.append(found["calibrator"]["reason"])
    calibrated = raw is not None
    whose = "calibrated " if calibrated else ""
    for one, of in ((chosen, whose), (raw, "model's own ")):
        if one is None:
            continue
        sentence = threshold_words({"thresholds": [one["set"]]}, risk, of)
        if sentence in sentences:  # neither has one, for the same reason
            continue
        sentences.append(sentence)
        test = one["test"]
        if test["risk"]["value"] is not None:
            kept, wrong = _percent(test["coverage"]["value"]), _percent(test["risk"]["value"])
            ends = _range(test["risk"]["low"], test["risk"]["high"])
            sentences.append(
                f"On {test['n']:,} test examples it keeps {kept}, of which {wrong} are wrong "
                f"(interval {ends}): {test['errors_kept']:,} of {test['n_kept']:,}."
            )
    if (norm := found.get("pnorm")) is not None:
        sentences.append(_pnorm_words(norm))
    if found["conformal"] is not None:
        sentences.append(_set_words(found["conformal"], found["sets"], alpha))
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


def elsewhere_words(found: Mapping[str, Any]) -> str:
    """What a policy does with examples from elsewhere."""
    shares, none = found["shares"], found["none"]
    sentence = f"Of {found['n']:,} examples from elsewhere it answers {_percent(shares['class'])}"
    if none["value"] is None:
        return f"{sentence} with a class."
    ends = _range(none["low"], none["high"])
    return (
        f"{sentence} with a class and takes {_percent(none['value'])} for none of its classes "
        f"(interval {ends})."
    )


def policy_words(promise: str, test: Mapping[str, Any]) -> list[str]:
    """What a policy's answers promise, and what it does on test."""
    shares = test["shares"]
    sentence = (
        f"On {test['n']:,} test examples this policy answers {_percent(shares['class'])} with a "
        f"class, {_percent(shares['set'])} with a set of several, asks a person for "
        f"{_percent(shares['ask'])} and takes {_percent(shares['none'])} for none of its classes"
    )
    if (risk := test["risk"])["value"] is not None:
        sentence += (
            f"; of its answers {_percent(risk['value'])} are wrong (interval "
            f"{_range(risk['low'], risk['high'])})"
        )
    return [f"Policy. {promise}", sentence + "."]


@dataclass(frozen=True)
class WeakClass:
    """The class with the lowest recall: hits of n examples, and the interval of that share."""

    name: str
    hits: int
    n: int
    low: float
    high: float
    taken_for: str
    times: int
    present: int  # classes with examples


def weakest_class(outputs: Outputs, level: float) -> WeakClass | None:
    """The class with the lowest recall; None where no class has an error, or none is known.

    It was picked for being low: its interval is that of one of K classes (Bonferroni).
    """
    if outputs.anonymous:
        return None
    right, support, _ = class_counts(outputs)
    k = int((right / support).nan_to_num(2.0).argmin())
    hits, of = int(right[k]), int(support[k])
    if hits == of:
        return None
    here = outputs.labels == k
    own = None if outputs.units is None else outputs.units[here].unique(return_inverse=True)[1]
    present = int((support > 0).sum())
    low, high = share_interval(outputs.rows.correct[here], 1 - (1 - level) / present, own)
    other, times = (int(values[k]) for values in taken_for(outputs))
    names = outputs.class_names
    return WeakClass(names[k], hits, of, low, high, names[other], times, present)


def _weakest(outputs: Outputs, level: float) -> str:
    """The class with the lowest recall, what it is taken for, and how low its recall may be."""
    if outputs.anonymous:
        return ""
    weak, k = weakest_class(outputs, level), outputs.classes
    if weak is None:
        return "No class has an error."
    sentence = (
        f"Weakest class: {isolated(weak.name)}, {weak.hits:,} of {weak.n:,} found "
        f"({_percent(weak.hits / weak.n)}, interval {_range(weak.low, weak.high)}, corrected for "
        f"{weak.present} classes), most often taken for "
        f"{isolated(weak.taken_for)} ({weak.times:,})."
    )
    if absent := k - weak.present:
        sentence += f" {absent} of {k} classes have no example here."
    return sentence


def gap_words(lead: str, outputs: Outputs, **choices: Any) -> str:
    """Over- or underconfident, by how much."""
    gap, interval = confidence_gap(outputs, **choices)
    sure, right = _sure_and_right(outputs)
    numbers = (
        f"mean confidence {_percent(sure)} against accuracy {_percent(right)}, "
        + interval_text(
            gap, interval.low, interval.high, digits=1, scale=100, sign=True, unit=" points"
        )
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
    first, last = float(before.rows.nll.mean()), float(after.rows.nll.mean())
    interval = with_unseen_errors(
        mean_interval(change, **choices, units=before.units),
        last - first,
        before.rows.correct,
        costs_of_errors(before, after),
        choices["level"],
        before.units,
    )
    numbers = f"NLL {_nats(first)} to {_nats(last)}, a change of " + interval_text(
        last - first, interval.low, interval.high, digits=4, sign=True
    )
    method = spoken(method)
    few = 2.0 ** (1 - len(change)) > 1 - choices["level"]
    if few or interval.low <= 0 <= interval.high:
        return f"Cannot tell whether {method} calibration helps: {numbers}."
    would = ("would help", "would harm") if advice else ("helps", "harms")
    method = method[0].upper() + method[1:]
    return f"{method} calibration {would[last >= first]}: {numbers}."


def _sure_and_right(outputs: Outputs) -> tuple[float, float]:
    """Mean confidence, and accuracy."""
    return float(outputs.rows.confidence.mean()), float(outputs.rows.correct.mean())


def noise_words(noise: Mapping[str, Any]) -> str:
    """What false labels leave open."""
    accuracy = noise["accuracy"]
    return (
        f"If {_percent(noise['rate'])} of the labels are false, accuracy lies within "
        f"{_range(accuracy['low'], accuracy['high'])} whichever they are, and calibration errors "
        f"move by {noise['rate'] * 100:.1f} points at most; if they are false by chance alone, it "
        f"is {_percent(noise['independent'])}."
    )


def _pnorm_words(norm: Mapping[str, Any]) -> str:
    """Whether a p-norm ranks better, as tested on folds."""
    ends = interval_text(norm["gain"], norm["low"], norm["high"], digits=5, sign=True)
    numbers = f"AURC {ends} against the top probability, on folds that did not choose it"
    if norm["p"] is None:
        return f"No p-norm of the logits is shown to rank the answers better ({numbers})."
    return f"The {norm['p']}-norm of the logits ranks the answers better ({numbers})."


def _set_words(conformal: Mapping[str, Any], name: str, alpha: float) -> str:
    """What the sets of the chosen method do on test; why all are whole, where too few set them."""
    test, fitted = conformal[name]["test"], conformal[name]["fitted"]
    if all(quantile is None for quantile in fitted["quantile"]):
        least = math.ceil(1 / alpha - 1 - 1e-9)
        return (
            f"Sets that hold the true class in {_percent(1 - alpha)} of cases hold all classes: "
            f"they are set on {fitted['n']:,} examples, and it takes {least:,} or more independent "
            f"ones (1/α − 1) to leave a class out; give more of validation, or a larger --alpha."
        )
    worst = test["worst_class"]
    empty = f", {_percent(test['empty'])} of them empty" if test["empty"] else ""
    return (
        f"Sets that hold the true class in {_percent(1 - alpha)} of cases have "
        f"{test['size']['value']:.2f} classes on average ({name.upper()}, the smallest on "
        f"validation{empty}); on test they do in {_percent(test['coverage']['value'])} (interval "
        f"{_range(test['coverage']['low'], test['coverage']['high'])}), least in class "
        f"{isolated(worst['name'])}: {_percent(worst['coverage']['value'])} of {worst['n']:,}."
    )


def _nats(value: float, sign: str = "") -> str:
    return f"{value:{sign}.4f}" if abs(value) < 1e6 else f"{value:{sign}.4g}"


def _percent(share: float) -> str:
    return f"{share * 100:.1f} %"


def _range(low: float, high: float) -> str:
    return f"{low * 100:.1f} to {high * 100:.1f} %"
