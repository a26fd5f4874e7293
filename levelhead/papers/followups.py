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

from levelhead.figures.gains import NAMES
from levelhead.papers import mueller2019
from levelhead.papers.plan import Experiment, Found, Planned, finished, settings
from levelhead.papers.rows import ABOVE, ANY, BELOW, Range, Row, claim, missing, row
from levelhead.runs import Run
from levelhead.statistics.measured import Estimate, Quantity, difference, mean
from levelhead.studies import tradeoff
from levelhead.studies.qualities import STAGES, estimates_of
from levelhead.studies.tradeoff import MEASURES

LEVEL = 0.95
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
    images from elsewhere).
    """
    before = mueller2019.studies(data, out, full)
    base = before["overfit"].recipe
    planned = {name: before[name] for name in ("cifar10", "overfit", *_students(before))}
    planned["relatives"] = Planned(base, {"loss": ("mbls", "maxsup")})
    planned["online"] = Planned(base.replace(targets="online"), {})
    # Fewer images, so that 10 epochs of them are affordable; others choose ε, with false labels.
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
    """A metric of a run on test, before or after its temperature, as the page prints it."""

    title: str
    metric: str
    series: str
    digits: int

    @property
    def quantity(self) -> Quantity:
        """As in the trade-off."""
        return MEASURES[self.metric]


ACCURACY = _Measure("accuracy %", "accuracy", "raw", 2)
NLL = _Measure("NLL", "nll", "raw", 4)
NLL_SCALED = _Measure("NLL after T", "nll", "temperature", 4)
SMECE = _Measure("smECE %", "smece", "raw", 2)
SMECE_SCALED = _Measure("smECE % after T", "smece", "temperature", 2)
PRINTED = (ACCURACY, NLL, NLL_SCALED, SMECE, SMECE_SCALED)


Estimates = Mapping[_Measure, Mapping[int, Estimate]]
"""A setting: each printed measure by seed."""


def estimates(runs: Sequence[Run]) -> Estimates:
    """The printed measures of the runs of a setting; each run is read once."""
    table: dict[_Measure, dict[int, Estimate]] = {measure: {} for measure in PRINTED}
    for run in runs:
        for series in STAGES:
            measures = [measure for measure in PRINTED if measure.series == series]
            names = [measure.metric for measure in measures]
            numbers = estimates_of(run, names, series, LEVEL)
            for measure in measures:
                table[measure][run.recipe.seed] = numbers[measure.metric]
    return table


def value_rows(groups: Mapping[str, Estimates], place: str = "") -> Iterator[Row]:
    """Every measure of every setting."""
    for measure in PRINTED:
        for name, setting in groups.items():
            measured = mean(setting[measure], measure.quantity)
            what = f"{measure.title}, {place}{name}"
            yield row(what, "–", measured, measure.digits, scale=measure.quantity.scale)


def difference_row(
    measure: _Measure,
    what: str,
    baseline: Estimates,
    setting: Estimates,
    words: str = "–",
    claimed: Range = ANY,
) -> Row:
    """Setting minus baseline in one measure, against a claim if there is one."""
    change = difference(setting[measure], baseline[measure], measure.quantity)
    what = f"{measure.title}, {what}"
    return claim(what, change, claimed, words, measure.digits, measure.quantity.scale)


def _named(settings: Mapping[float, Any]) -> dict[str, Any]:
    return {f"ε = {epsilon:g}": setting for epsilon, setting in sorted(settings.items())}


def trade(studies: Mapping[str, Path]) -> Found:
    """Every ε of the strong network against hard targets plus temperature scaling."""
    runs = finished(studies["cifar10"])
    if not any(run.recipe.smoothing for run in runs):
        return Found([missing("differences to hard targets", "–")], [], {})
    students = [run for name in _students(studies) for run in finished(studies[name])]
    ood = [str(path) for path in [Path(runs[0].recipe.data).parent / "mnist"] if path.exists()]
    result = tradeoff(runs, ood, students)
    measures = result.findings["measures"]
    rows = [_held(d, measures[d["measure"]]) for d in result.findings["differences"] if _kept(d)]
    panels = {"tradeoff-cifar10": result.drawn, "overconfidence-cifar10": result.drawn}
    return Found(rows, result.findings["words"], panels)


def _held(entry: Mapping[str, Any], measure: Mapping[str, Any]) -> Row:
    """A setting held against hard targets."""
    scale = measure["scale"]
    title = measure["title"] + (" %" if scale == 100 else "")
    more = [] if entry["series"] == "raw" else [NAMES.get(entry["series"], entry["series"])]
    against = " plus temperature" if entry["against"] == "temperature" else ""
    what = f"{', '.join([title, *more])}: {entry['setting']} minus hard{against}"
    value, low, high = (scale * entry[end] for end in ("value", "low", "high"))
    return Row(what, "–", value, low, high, None, len(entry["per_seed"]), 2 if scale == 100 else 4)


def _kept(entry: Mapping[str, Any]) -> bool:
    """Whether it goes into the table; the figure shows every series."""
    measure, series, against = (entry[name] for name in ("measure", "series", "against"))
    if entry["value"] is None:
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
    known = {name: estimates(runs) for name, runs in groups.items()}
    rows = [*value_rows(known)]
    nothing = estimates([])
    claims: dict[tuple[str, str, str], tuple[str, tuple[float, float]]] = {
        ("online", "ε = 0", "accuracy %"): ("above 0 (Zhang 2020, ImageNet: 77.27 − 76.32)", ABOVE),
        ("mbls", "ε = 0", "smECE %"): ("below 0 (Liu 2022, ECE: 1.64 − 3.73)", BELOW),
        ("mbls", PLAIN, "smECE %"): ("below 0 (Liu 2022, ECE: 1.64 − 3.17)", BELOW),
        ("maxsup", PLAIN, "accuracy %"): ("above 0 (Zhou 2025, ImageNet)", ABOVE),
    }
    for name in (PLAIN, "online", "mbls", "maxsup"):
        for against in ("ε = 0", PLAIN):
            for measure in PRINTED if name != against else ():
                words, claimed = claims.get((name, against, measure.title), ("–", ANY))
                what = f"{name} minus {against}"
                baseline, setting = (known.get(key, nothing) for key in (against, name))
                rows.append(difference_row(measure, what, baseline, setting, words, claimed))
    if len(groups) < 2:
        return Found(rows, [], {})
    result = tradeoff([run for runs in groups.values() for run in runs])
    figures = ("tradeoff-relatives", "overconfidence-relatives")
    return Found(rows, result.findings["words"], dict.fromkeys(figures, result.drawn))


def _noise(kind: str) -> Callable[[Mapping[str, Path]], Found]:
    """Smoothing where labels are false: learnt and chosen with them, judged on clean ones."""

    def judge(studies: Mapping[str, Path]) -> Found:
        runs = settings(studies[f"noise-{kind}"])
        known = {epsilon: estimates(same) for epsilon, same in runs.items()}
        rows = [*value_rows(_named(known))]
        nothing = estimates([])
        hard = known.get(0.0, nothing)
        lukasik = "above 0 (Lukasik 2020, ResNet-32, 20 % symmetric: 83.95 − 80.44)"
        for epsilon in (0.1, 0.4):
            smoothed, what = known.get(epsilon, nothing), f"ε {epsilon:g} minus 0"
            claimed = (lukasik, ABOVE) if epsilon == 0.1 else ("–", ANY)
            rows.append(difference_row(ACCURACY, what, hard, smoothed, *claimed))
            rows.append(difference_row(NLL_SCALED, what, hard, smoothed))
        return Found(rows, [*_chosen(runs)], {})

    return judge


def _chosen(runs: Mapping[float, Sequence[Run]]) -> Iterator[str]:
    """Which ε the false labels of validation ask for, and which the clean ones of test."""
    if len(runs) < 2:
        return
    for name, title in (("accuracy", "accuracy"), ("nll", "NLL")):
        best = [_best(runs, name, split) for split in ("validation", "test")]
        yield (
            f"By {title} (mean over seeds) validation with its false labels asks for ε = "
            f"{best[0]:g}; test with clean labels for ε = {best[1]:g}."
        )


def _best(runs: Mapping[float, Sequence[Run]], name: str, split: str) -> float:
    means = {
        epsilon: fmean(run.findings[split]["metrics"][name]["value"] for run in same)
        for epsilon, same in runs.items()
    }
    choose = max if MEASURES[name].direction == "up" else min
    return choose(means, key=means.__getitem__)


def subsets(studies: Mapping[str, Path]) -> Found:
    """Two, three and ten classes: what smoothing by 0.05 changes."""
    rows: list[Row] = []
    nothing = estimates([])
    for count, study in ((2, "classes-2"), (3, "classes-3"), (10, "overfit")):
        runs = settings(studies[study])
        known = {epsilon: estimates(runs[epsilon]) for epsilon in (0.0, 0.05) if epsilon in runs}
        rows += value_rows(_named(known), f"K = {count}, ")
        hard, smoothed = (known.get(epsilon, nothing) for epsilon in (0.0, 0.05))
        for measure in PRINTED:
            words, claimed = "–", ANY
            if count == 2 and measure is ACCURACY:
                words, claimed = "within ±0.5: said to matter little at K = 2", (-0.5, 0.5)
            what = f"K = {count}, ε 0.05 minus 0"
            rows.append(difference_row(measure, what, hard, smoothed, words, claimed))
    return Found(rows, [], {})


SMALL = "CIFAR-10 with AlexNet, 10 epochs without augmentation: an over-confident network"
EXPERIMENTS = {
    "tradeoff": Experiment(
        "What smoothing buys and costs", ("cifar10", "students-of-"), trade,
        "CIFAR-10 with `fast`, 8 epochs; corrupted: 2,000 test images; elsewhere: MNIST.",
    ),
    "relatives": Experiment(
        "Relatives of smoothing", ("overfit", "relatives", "online"), relatives,
        f"{SMALL}. Strengths as published: MbLS 0.1 with margin 10, MaxSup 0.1, online ½.",
    ),
    **{
        f"noise-{kind}": Experiment(
            f"False labels, {kind}", (f"noise-{kind}",), _noise(kind),
            f"{words}, in train and validation. {SMALL}, 20,000 images.",
        )
        for kind, words in KINDS.items()
    },
    "subsets": Experiment(
        "Two, three and ten classes", ("classes-", "overfit"), subsets,
        f"{SMALL}. Two: {' and '.join(CLASSES[2])}; three: {', '.join(CLASSES[3])}.",
    ),
}  # fmt: skip
