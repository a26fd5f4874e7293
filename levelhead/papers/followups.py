"""What came after Müller et al. 2019: what smoothing trades, its relatives, false labels, fewer
classes; on the CIFAR-10 networks of `mueller2019`.

Claims are held against ours by their direction: they were published for other data and networks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from torch import Tensor

from levelhead.figures.gains import NAMES
from levelhead.papers import mueller2019
from levelhead.papers.plan import (
    Experiment,
    Found,
    Planned,
    correct,
    difference,
    finished,
    paired,
    settings,
)
from levelhead.papers.rows import (
    ABOVE,
    ANY,
    BELOW,
    Row,
    claim,
    missing,
    number,
    over_examples,
    over_seeds,
)
from levelhead.runs import Run
from levelhead.statistics.seeds import SeedInterval, widened
from levelhead.studies import tradeoff

TITLE = "After the paper: what smoothing trades, its relatives, false labels, fewer classes"
PLAIN = "ε = 0.05"
CLASSES = {
    2: ("cat", "dog"),
    3: ("airplane", "automobile", "bird"),
}
KINDS = {
    "symmetric": "20 % of the labels are any other class",
    "asymmetric": "40 % of the labels of five classes are the class it looks like",
    "human": "CIFAR-10N, the worst of three annotators: 40 % of the labels",
}


def studies(data: Path, out: Path, full: bool) -> dict[str, Planned]:
    """The trainings by name; those of `mueller2019` that this page reads are shared with it.

    data: a folder that holds cifar10/, cifar10n/labels.parquet (human noise) and mnist/ (as
    pictures from elsewhere).
    """
    before = mueller2019.studies(data, out, full)
    base = before["overfit"].recipe
    planned = {name: before[name] for name in ("cifar10", "overfit", *_students(before))}
    planned["relatives"] = Planned(base, {"loss": ("mbls", "maxsup")})
    planned["online"] = Planned(base.replace(targets="online"), {})
    # Fewer pictures, so that 10 epochs of them are affordable; others choose ε, with false labels.
    noisy = base if full else base.replace(validation=0.6)
    grid = {"smoothing": (0.0, 0.1, 0.4)}
    for kind, rate in (("symmetric", 0.2), ("asymmetric", 0.4)):
        planned[f"noise-{kind}"] = Planned(noisy.replace(noise=kind, noise_rate=rate), grid)
    votes = data / "cifar10n" / "labels.parquet"
    planned["noise-human"] = Planned(noisy.replace(labels=f"{votes}:worst"), grid)
    for count, names in CLASSES.items():
        fewer = base.replace(classes=names)
        planned[f"classes-{count}"] = Planned(fewer, {"smoothing": (0.0, 0.05)})
    return planned


def _students(planned: Mapping[str, Any]) -> list[str]:
    """Studies of students by Müller's protocol, without remedies."""
    return [n for n in planned if n.startswith("students-of-") and n.count("-") == 2]


@dataclass(frozen=True)
class _Measure:
    """Of a run on test: a number of each example (`rows`), or of them all with its interval."""

    title: str
    scale: float
    digits: int
    rows: Callable[[Run], Tensor] | None = None
    whole: Callable[[Run], Mapping[str, float]] | None = None

    def mean(self, runs: Sequence[Run]) -> SeedInterval:
        """Over the seeds of a setting."""
        if self.rows is not None:
            return over_examples([self.rows(run) for run in runs], self.scale)
        assert self.whole is not None
        told = [self.whole(run) for run in runs]
        value, low, high = (
            [self.scale * one[end] for one in told] for end in ("value", "low", "high")
        )
        return widened(value, fmean(low), fmean(high))

    def gap(self, a: Sequence[Run], b: Sequence[Run]) -> SeedInterval | None:
        """That of b minus that of a, by seed."""
        if self.rows is not None:
            return difference(a, b, self.scale, self.rows)
        assert self.whole is not None
        both = [[self.whole(run)["value"] for run in pair] for pair in paired(a, b)]
        return over_seeds([self.scale * (two - one) for one, two in both]) if both else None


def _nll(run: Run) -> Tensor:
    return run.outputs("test").rows.nll


def _nll_scaled(run: Run) -> Tensor:
    return run.calibration.apply(run.outputs("test")).rows.nll


def _judged(name: str, stage: str) -> Callable[[Run], Mapping[str, float]]:
    return lambda run: dict(run.findings[stage]["metrics"][name])


ACCURACY = _Measure("accuracy %", 100, 2, rows=correct)
NLL = _Measure("NLL", 1, 4, rows=_nll)
NLL_SCALED = _Measure("NLL after T", 1, 4, rows=_nll_scaled)
SMECE = _Measure("smECE %", 100, 2, whole=_judged("smece", "test"))
SMECE_SCALED = _Measure("smECE % after T", 100, 2, whole=_judged("smece", "test_calibrated"))
MEASURES = (ACCURACY, NLL, NLL_SCALED, SMECE, SMECE_SCALED)


def _values(groups: Mapping[str, Sequence[Run]], place: str = "") -> Iterator[Row]:
    """Every measure of every setting."""
    for measure in MEASURES:
        for name, runs in groups.items():
            what = f"{measure.title}, {place}{name}"
            yield number(what, measure.mean(runs), None, "–", measure.digits)


def _gap(
    measure: _Measure,
    what: str,
    a: Sequence[Run],
    b: Sequence[Run],
    told: str = "–",
    wanted: tuple[float, float] = ANY,
) -> Row:
    """Setting b minus setting a in one measure, against a claim if there is one."""
    what = f"{measure.title}, {what}"
    seen = measure.gap(a, b)
    if seen is None:
        return missing(what, told)
    return claim(what, seen, wanted, told, measure.digits)


def _named(of: Mapping[float, Sequence[Run]]) -> dict[str, Sequence[Run]]:
    return {f"ε = {epsilon:g}": runs for epsilon, runs in sorted(of.items())}


def trade(studies: Mapping[str, Path]) -> Found:
    """Every ε of the strong network against hard targets plus temperature scaling."""
    runs = finished(studies["cifar10"])
    if not any(run.recipe.smoothing for run in runs):
        return Found([missing("differences to hard targets", "–")], [], {})
    students = [run for name in _students(studies) for run in finished(studies[name])]
    ood = [str(path) for path in [Path(runs[0].recipe.data).parent / "mnist"] if path.exists()]
    seen = tradeoff(runs, ood, students)
    measures = seen.findings["measures"]
    rows = [_held(d, measures[d["measure"]]) for d in seen.findings["differences"] if _kept(d)]
    panels = {"tradeoff-cifar10": seen.drawn, "overconfidence-cifar10": seen.drawn}
    return Found(rows, seen.findings["words"], panels)


def _held(told: Mapping[str, Any], measure: Mapping[str, Any]) -> Row:
    """A setting held against hard targets."""
    scale = measure["scale"]
    title = measure["title"] + (" %" if scale == 100 else "")
    more = [] if told["series"] == "raw" else [NAMES.get(told["series"], told["series"])]
    against = " plus temperature" if told["against"] == "temperature" else ""
    what = f"{', '.join([title, *more])}: {told['setting']} minus hard{against}"
    value, low, high = (scale * told[end] for end in ("value", "low", "high"))
    return Row(what, "–", value, low, high, None, len(told["per_seed"]), 2 if scale == 100 else 4)


def _kept(told: Mapping[str, Any]) -> bool:
    """Whether it goes into the table; the figure shows every series."""
    measure, series, against = (told[name] for name in ("measure", "series", "against"))
    if told["value"] is None:
        return False
    if series in ("temperature", "pnorm"):
        return bool(against == "temperature")
    if measure in ("nll", "smece"):
        return bool(against == "temperature")
    return bool(series == "energy" or measure.endswith("accuracy"))


def relatives(studies: Mapping[str, Path]) -> Found:
    """Online smoothing, MbLS and MaxSup against plain smoothing and hard targets."""
    plain = settings(studies["overfit"])
    groups: dict[str, Sequence[Run]] = {
        name: runs for name, runs in _named(plain).items() if name in ("ε = 0", PLAIN)
    }
    groups |= {"online": finished(studies["online"])}
    for name in ("mbls", "maxsup"):
        groups[name] = [run for run in finished(studies["relatives"]) if run.recipe.loss == name]
    groups = {name: runs for name, runs in groups.items() if runs}
    rows = [*_values(groups)]
    known: dict[str, Sequence[Run]] = {"ε = 0": [], PLAIN: []} | groups
    claims: dict[tuple[str, str, str], tuple[str, tuple[float, float]]] = {
        ("online", "ε = 0", "accuracy %"): ("above 0 (Zhang 2020, ImageNet: 77.27 − 76.32)", ABOVE),
        ("mbls", "ε = 0", "smECE %"): ("below 0 (Liu 2022, ECE: 1.64 − 3.73)", BELOW),
        ("mbls", PLAIN, "smECE %"): ("below 0 (Liu 2022, ECE: 1.64 − 3.17)", BELOW),
        ("maxsup", PLAIN, "accuracy %"): ("above 0 (Zhou 2025, ImageNet)", ABOVE),
    }
    for name in (PLAIN, "online", "mbls", "maxsup"):
        for against in ("ε = 0", PLAIN):
            for measure in MEASURES if name != against else ():
                told, wanted = claims.get((name, against, measure.title), ("–", ANY))
                what = f"{name} minus {against}"
                rows.append(_gap(measure, what, known[against], known.get(name, []), told, wanted))
    found = [run for runs in groups.values() for run in runs]
    seen = tradeoff(found) if len(groups) > 1 else None
    words = seen.findings["words"] if seen else []
    figures = ("tradeoff-relatives", "overconfidence-relatives") if seen else ()
    return Found(rows, words, {name: seen.drawn for name in figures if seen})


def _noise(kind: str) -> Callable[[Mapping[str, Path]], Found]:
    """Smoothing where labels are false: learnt and chosen with them, judged on clean ones."""

    def judge(studies: Mapping[str, Path]) -> Found:
        runs = settings(studies[f"noise-{kind}"])
        rows = [*_values(_named(runs))]
        hard = runs.get(0.0, [])
        lukasik = "above 0 (Lukasik 2020, ResNet-32, 20 % symmetric: 83.95 − 80.44)"
        for epsilon in (0.1, 0.4):
            told, wanted = (lukasik, ABOVE) if epsilon == 0.1 else ("–", ANY)
            for measure in (ACCURACY, NLL_SCALED):
                claimed = (told, wanted) if measure is ACCURACY else ("–", ANY)
                rows.append(
                    _gap(measure, f"ε {epsilon:g} minus 0", hard, runs.get(epsilon, []), *claimed)
                )
        return Found(rows, [*_chosen(runs)], {})

    return judge


def _chosen(runs: Mapping[float, Sequence[Run]]) -> Iterator[str]:
    """Which ε the false labels of validation ask for, and which the clean ones of test."""
    if len(runs) < 2:
        return
    for name, sign in (("accuracy", 1), ("nll", -1)):
        best = {}
        for split in ("validation", "test"):
            told = _judged(name, split)
            means = {e: fmean(told(run)["value"] for run in same) for e, same in runs.items()}
            best[split] = max(means, key=lambda epsilon: sign * means[epsilon])
        title = "accuracy" if name == "accuracy" else "NLL"
        yield (
            f"By {title} (mean over seeds) validation with its false labels asks for ε = "
            f"{best['validation']:g}; test with clean labels for ε = {best['test']:g}."
        )


def subsets(studies: Mapping[str, Path]) -> Found:
    """Two, three and ten classes: what smoothing by 0.05 changes."""
    rows: list[Row] = []
    for count, study in ((2, "classes-2"), (3, "classes-3"), (10, "overfit")):
        runs = {e: r for e, r in settings(studies[study]).items() if e in (0.0, 0.05)}
        rows += _values(_named(runs), f"K = {count}, ")
        for measure in MEASURES:
            told, wanted = "–", ANY
            if count == 2 and measure is ACCURACY:
                told, wanted = "within ±0.5: said to matter little at K = 2", (-0.5, 0.5)
            what = f"K = {count}, ε 0.05 minus 0"
            rows.append(_gap(measure, what, runs.get(0.0, []), runs.get(0.05, []), told, wanted))
    return Found(rows, [], {})


SMALL = "CIFAR-10 with AlexNet, 10 epochs without augmentation: an over-confident network"
EXPERIMENTS = {
    "tradeoff": Experiment(
        "What smoothing buys and costs", ("cifar10", "students-of-"), trade,
        "CIFAR-10 with `fast`, 8 epochs; corrupted: 2,000 test pictures; elsewhere: MNIST.",
    ),
    "relatives": Experiment(
        "Relatives of smoothing", ("overfit", "relatives", "online"), relatives,
        f"{SMALL}. Strengths as published: MbLS 0.1 with margin 10, MaxSup 0.1, online ½.",
    ),
    **{
        f"noise-{kind}": Experiment(
            f"False labels, {kind}", (f"noise-{kind}",), _noise(kind),
            f"{told}, in train and validation. {SMALL}, 20,000 pictures.",
        )
        for kind, told in KINDS.items()
    },
    "subsets": Experiment(
        "Two, three and ten classes", ("classes-", "overfit"), subsets,
        f"{SMALL}. Two: {' and '.join(CLASSES[2])}; three: {', '.join(CLASSES[3])}.",
    ),
}  # fmt: skip
