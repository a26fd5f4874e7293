"""Xia et al., "Towards Understanding Why Label Smoothing Degrades Selective Classification and How
to Fix It" (ICLR 2025), on the CIFAR-10 studies of `mueller2019`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from levelhead.papers import mueller2019
from levelhead.papers.plan import Experiment, Found, Planned, settings
from levelhead.papers.rows import ABOVE, BELOW, Row, claim, missing, row
from levelhead.runs import Run
from levelhead.statistics.measured import Estimate, difference, mean
from levelhead.studies.qualities import by_seed, pnorm_aurc
from levelhead.studies.tradeoff import MEASURES

TITLE = "Label smoothing and selective classification"
AURC = MEASURES["aurc"]
NETWORKS = {"cifar10": "fast", "alexnet": "AlexNet", "overfit": "AlexNet without augmentation"}


def studies(data: Path, out: Path, full: bool) -> dict[str, Planned]:
    """The same networks: one --out serves both papers."""
    planned = mueller2019.studies(data, out, full)
    return {name: planned[name] for name in NETWORKS}


def _aurc(name: str) -> Callable[[Mapping[str, Path]], Found]:
    """Area under the risk-coverage curve by top softmax and by p-norm, p chosen on validation."""

    def judge(studies: Mapping[str, Path]) -> Found:
        rows = [*aurc_rows(studies[name], NETWORKS[name])]
        return Found(rows or [missing("AURC %", "more with smoothing")], [], {})

    return judge


def aurc_rows(study: Path, title: str) -> Iterator[Row]:
    """AURC of every ε by both scores, and the differences that the paper claims."""
    by_epsilon = {
        epsilon: {"top softmax": by_seed(runs, "aurc"), "p-norm": _pnorm(runs)}
        for epsilon, runs in sorted(settings(study).items())
    }
    for epsilon, scores in by_epsilon.items():
        for score, estimates in scores.items():
            what = f"AURC %, {title}, ε = {epsilon:g}, {score}"
            yield row(what, "–", mean(estimates, AURC), 3, scale=AURC.scale)
    hard = by_epsilon.pop(0.0, None)
    for epsilon, scores in by_epsilon.items():
        top, pnorm = scores["top softmax"], scores["p-norm"]
        claims = [
            (
                f"ε = {epsilon:g}, p-norm minus top softmax",
                "below 0 (6.22 − 7.55)",
                pnorm,
                top,
                BELOW,
            )
        ]
        if hard is not None:
            claims = [
                (f"ε {epsilon:g} minus 0, top softmax", "above 0 (7.55 − 6.53)", top,
                 hard["top softmax"], ABOVE),
                *claims,
                (f"ε {epsilon:g} minus 0, p-norm", "below 0 (6.22 − 6.56)", pnorm,
                 hard["p-norm"], BELOW),
            ]  # fmt: skip
        for what, words, own, other, claimed in claims:
            change = difference(own, other, AURC)
            if change.value is not None:
                yield claim(f"AURC %, {title}, {what}", change, claimed, words, 3, AURC.scale)


def _pnorm(runs: Sequence[Run]) -> dict[int, Estimate]:
    return {run.recipe.seed: pnorm_aurc(run) for run in runs}


EXPERIMENTS = {
    f"aurc-{name}": Experiment(
        f"AURC, {title} (published for ImageNet, ResNet-50, ε = 0.2)", (name,), _aurc(name),
        "CIFAR-10 with a small network instead of ImageNet with ResNet-50.",
    )
    for name, title in NETWORKS.items()
}  # fmt: skip
