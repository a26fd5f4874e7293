"""Xia et al., "Towards Understanding Why Label Smoothing Degrades Selective Classification and How
to Fix It" (ICLR 2025), on the CIFAR-10 studies of `mueller2019`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from levelhead.decisions import SCORES, fit_pnorm, risk_coverage
from levelhead.papers import mueller2019
from levelhead.papers.plan import Experiment, Found, Planned, settings
from levelhead.papers.rows import ABOVE, BELOW, Row, claim, missing, over_seeds
from levelhead.runs import Run

TITLE = "Label smoothing and selective classification"
NETWORKS = {"cifar10": "fast", "alexnet": "AlexNet", "overfit": "AlexNet without augmentation"}


def studies(data: Path, out: Path, full: bool) -> dict[str, Planned]:
    """The same networks: one --out serves both papers."""
    planned = mueller2019.studies(data, out, full)
    return {name: planned[name] for name in NETWORKS}


def _aurc(name: str) -> Callable[[Mapping[str, Path]], Found]:
    """Area under the risk-coverage curve by top softmax and by p-norm, p chosen on validation."""

    def judge(studies: Mapping[str, Path]) -> Found:
        rows = [*_rows(studies[name], NETWORKS[name])]
        return Found(rows or [missing("AURC %", "more with smoothing")], [], {})

    return judge


def _rows(study: Path, title: str) -> Iterator[Row]:
    areas = {
        epsilon: {run.recipe.seed: _areas(run) for run in runs}
        for epsilon, runs in sorted(settings(study).items())
    }
    for epsilon, mine in areas.items():
        for place, score in enumerate(("top softmax", "p-norm")):
            seen = over_seeds([both[place] for both in mine.values()])
            what = f"AURC %, {title}, ε = {epsilon:g}, {score}"
            yield Row(what, "–", seen.mean, seen.low, seen.high, None, seen.seeds)
    hard = areas.pop(0.0, {})
    for epsilon, mine in areas.items():
        both = [(mine[seed], hard[seed]) for seed in mine if seed in hard]
        for what, told, gaps, wanted in (
            (f"ε {epsilon:g} minus 0, top softmax", "above 0 (7.55 − 6.53)",
             [a[0] - b[0] for a, b in both], ABOVE),
            (f"ε = {epsilon:g}, p-norm minus top softmax", "below 0 (6.22 − 7.55)",
             [a[1] - a[0] for a, _ in both], BELOW),
            (f"ε {epsilon:g} minus 0, p-norm", "below 0 (6.22 − 6.56)",
             [a[1] - b[1] for a, b in both], BELOW),
        ):  # fmt: skip
            if gaps:
                yield claim(f"AURC %, {title}, {what}", over_seeds(gaps), wanted, told, 3)


def _areas(run: Run) -> tuple[float, float]:
    """AURC in % of the test split by top softmax, and by p-norm."""
    test, scores = run.outputs("test"), (SCORES["msp"], fit_pnorm(run.outputs("validation")).score)
    top, norm = (risk_coverage(score.of(test), 1 - test.rows.correct).aurc for score in scores)
    return 100 * top, 100 * norm


EXPERIMENTS = {
    f"aurc-{name}": Experiment(
        f"AURC, {title} (published for ImageNet, ResNet-50, ε = 0.2)", (name,), _aurc(name),
        "CIFAR-10 with a small network instead of ImageNet with ResNet-50.",
    )
    for name, title in NETWORKS.items()
}  # fmt: skip
