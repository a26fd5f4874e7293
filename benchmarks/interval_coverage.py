"""Do the intervals cover? Simulated classifiers whose true numbers are known.

    python benchmarks/interval_coverage.py --sets 1000 > benchmarks/results/coverage.md

Of each world many data sets are drawn; a cell of the table is the share of their 95 % intervals
that hold the truth, which a million examples with known label probabilities give without noise.
1,000 sets are worth ± 1.4 points (n = 20,000 gets a quarter of the sets: ± 2.8), 300 resamples
(the library's default: 1,000) a little coverage. The worlds share their draws: rows are alike.
"""

from __future__ import annotations

import argparse
import functools
import math
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import product

import numpy as np
import torch
from torch import Tensor

from levelhead.calibrators import Temperature
from levelhead.metrics import METRICS, aurc, classwise, ece, intervals_of, reason, smece
from levelhead.outputs import Outputs

NAMES = (
    *("accuracy", "balanced_accuracy", "nll", "nll_refinement", "nll_calibration", "brier"),
    *("brier_resolution", "ece", "ece_mass", "classwise_ece", "toplabel_ece", "ece_debiased"),
    *("smece", "overconfidence", "underconfidence", "aurc", "eaurc", "log T"),
)
USUAL = (
    "accuracy",
    "balanced_accuracy",
    "nll",
    "brier",
    "ece",
    "smece",
    "classwise_ece",
    "aurc",
    "ece_debiased",
    "log T",
)
EASY = ("calibrated", "overconfident", "underconfident", "smoothed")
HARD = ("rare", "rare overconfident", "imbalanced", "shifted", "mixed", "grouped")
WORLDS = (*EASY, *HARD)
SIZES = (50, 200, 1000, 5000, 20_000)
MANY = 1_000_000
GROUP = 10  # examples that belong together


def draw(world: str, classes: int, n: int, seed: int) -> tuple[Outputs, Tensor]:
    """What a classifier says of n examples, with drawn labels; and their true probabilities.

    About 85 % (of 2 classes 90 %) accurate: Gaussian logits, one class pushed up by a varying
    amount. The classifier shows them as they are, times 1.5, times 1/1.5, or smoothed: its
    probabilities are 0.9 of the true ones and 0.1 of the uniform. The hard worlds: see `hard`.
    """
    source = np.random.default_rng([seed, classes, n])
    if world in HARD:
        return hard(world, classes, n, source)
    z = source.normal(size=(n, classes))
    z[np.arange(n), source.integers(0, classes, n)] += 1 + 3 * np.abs(source.normal(size=n))
    true = torch.softmax(torch.from_numpy(z), 1)
    labels = (z + source.gumbel(size=z.shape)).argmax(1)
    scale = {"overconfident": 1.5, "underconfident": 1 / 1.5}.get(world, 1.0)
    shown = scale * z
    if world == "smoothed":
        shown = (0.9 * true + 0.1 / classes).log().numpy()
    return Outputs.from_logits(shown, labels), true


def hard(world: str, classes: int, n: int, source: np.random.Generator) -> tuple[Outputs, Tensor]:
    """The worlds where data are thin, after those that found an earlier judge wanting.

    rare: calibrated and 99.9 % right; rare overconfident: its logits times 2. imbalanced: 90 % of
    the examples are of one class, calibrated; shifted: the same shown as if classes were equal, so
    that classes err in opposite directions. mixed: too sharp on some classes, too soft on others.
    grouped: examples come in tens that share their class, most of their noise, and a factor by
    which the model is too sure or not sure enough there.
    """
    share = np.full(classes, 1 / classes)
    if world in ("imbalanced", "shifted"):
        share = np.r_[0.9, np.full(classes - 1, 0.1 / (classes - 1))]
    push, scale = (7.6, 1.6) if world.startswith("rare") else (3.0, 1.7)
    group = np.arange(n) // GROUP if world == "grouped" else np.arange(n)
    label = source.choice(classes, group[-1] + 1, p=share)[group]
    noise = source.normal(size=(n, classes))
    sharp = np.ones(n)
    if world == "grouped":
        common = source.normal(size=(group[-1] + 1, classes))[group]
        noise = math.sqrt(0.6) * common + math.sqrt(0.4) * noise
        sharp = np.exp(0.5 * source.normal(size=group[-1] + 1))[group]
    z = scale * (push * np.eye(classes)[label] + noise)
    if world in ("imbalanced", "shifted"):
        z += np.log(share)
    true = torch.softmax(torch.from_numpy(z * sharp[:, None]), 1)
    labels = (source.random((n, 1)) > true.numpy().cumsum(1)[:, :-1]).sum(1)
    shown = z
    if world == "rare overconfident":
        shown = 2 * z
    elif world == "shifted":
        shown = z - np.log(share)
    elif world == "mixed":
        shown = z * np.where(z.argmax(1) < classes / 2, 2.0, 0.5)[:, None]
    groups = [str(g) for g in group] if world == "grouped" else None
    return Outputs.from_logits(shown, labels, groups=groups), true


@functools.cache
def truth(world: str, classes: int) -> dict[str, float]:
    """The numbers of the population: labels are replaced by their probabilities."""
    outputs, true = draw(world, classes, MANY, 7)
    logs, rows = outputs.log_probabilities(), outputs.rows
    p, right = logs.exp(), true.gather(1, rows.prediction.long()[:, None]).squeeze(1)

    def soft(binned: ece.Binned) -> ece.Binned:
        return ece.binned(binned.index, binned.size, rows.confidence, right)

    bins = soft(ece.prepare(outputs))
    gaps = bins.gaps()
    largest = (gaps.abs() / bins.share()).nan_to_num(0)
    found = {
        "accuracy": float(right.mean()),
        "nll": -float((true * logs).sum(1).mean()),
        "brier": float((p.square() - 2 * p * true).sum(1).mean() + 1),
        "ece": float(gaps.abs().sum()),
        "mce": float(largest[bins.share() > 1e-3].max()),
        "overconfidence": float(gaps.clamp(min=0).sum()),
        "underconfidence": -float(gaps.clamp(max=0).sum()),
        "ece_debiased": float(ece.squared(bins)),
    }
    hits = true.new_zeros(classes).index_add_(0, rows.prediction.long(), right)
    found["balanced_accuracy"] = float((hits / true.sum(0)).mean())
    found |= {f"recall {k}": float(r) for k, r in enumerate(hits / true.sum(0))}
    rate = bins.sum(right) / bins.sum()
    found["brier_resolution"] = float((bins.share() * (rate - right.mean()).square()).nansum())
    for name, prepare in (("ece_mass", ece.prepare_mass), ("toplabel_ece", ece.prepare_toplabel)):
        found[name] = float(soft(prepare(outputs)).gaps().abs().sum())
    cells = smece.prepare(outputs)
    sums = torch.bincount(cells.index, rows.confidence - right, minlength=smece.GRID)
    found["smece"] = float(smece.error(sums.numpy(), MANY))
    people = Outputs.from_logits(outputs.scores, outputs.labels, label_distribution=true)
    found["classwise_ece"] = float(classwise.prepare(people, soft=True).errors().mean())
    wrong = 1 - right[aurc.prepare(outputs).order]
    found["aurc"] = float((wrong.cumsum(0) / torch.arange(1, MANY + 1)).mean())
    rest = 1 - float(wrong.mean())
    found["eaurc"] = found["aurc"] - (1 - rest + rest * math.log(rest))
    low, high, step = -1.5, 2.0, slice(None, None, 5)
    while high - low > 1e-5:  # the zero of the NLL's derivative by log T
        middle = (low + high) / 2
        z = outputs.scores[step] * math.exp(-middle)
        flatter = float((z * (torch.softmax(z, 1) - true[step])).sum()) > 0
        low, high = (middle, high) if flatter else (low, middle)
    found["log T"] = low
    cool = torch.log_softmax(outputs.scores * math.exp(-low), 1)
    found["nll_refinement"] = -float((true * cool).sum(1).mean())
    found["nll_calibration"] = max(0.0, found["nll"] - found["nll_refinement"])
    for name in ("ece", "ece_mass", "toplabel_ece", "classwise_ece", "smece", "nll_calibration"):
        if world == "calibrated":
            assert found[name] < 1e-5, (name, found[name])
            found[name] = 0.0
    return found


def covered(cell: tuple[str, int, int, int, int, tuple[str, ...]]) -> dict[str, list[bool]]:
    """By metric, whether the interval of each data set holds the truth (and if not, lies above)."""
    world, classes, n, sets, resamples, names = cell
    torch.set_num_threads(1)
    true = truth(world, classes)
    found: dict[str, list[float]] = {name: [] for name in names}
    for seed in range(sets):
        outputs, _ = draw(world, classes, n, 100 + seed)
        metrics = [METRICS[name] for name in names if name != "log T"]
        metrics = [metric for metric in metrics if reason(metric, outputs) is None]
        pairs = [(metric, metric.prepare(outputs)) for metric in metrics]
        made = intervals_of(pairs, resamples=resamples, seed=seed, outputs=outputs)
        ends = {metric.name: (i.low, i.high) for metric, i in zip(metrics, made, strict=True)}
        if "log T" in names:
            fitted = Temperature.fit_outputs(outputs)
            ends["log T"] = (math.log(max(fitted.low, 1e-9)), math.log(fitted.high))
        for name, (low, high) in ends.items():
            value = true.get(name, math.nan)
            if name == "balanced_accuracy":  # of the classes that occur
                value = float(np.mean([true[f"recall {k}"] for k in outputs.labels.unique()]))
            side = -1 if high < value - 1e-9 else 1 if low > value + 1e-9 else 0
            found[name].append(side)
    return found


def main() -> None:
    """Print a table of coverages, and name the cells outside 93 to 97 %."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", type=int, default=1000, help="data sets a cell")
    parser.add_argument("--resamples", type=int, default=300)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--classes", type=int, nargs="+", default=(10, 2))
    parser.add_argument("--worlds", nargs="+", default=WORLDS, choices=WORLDS)
    parser.add_argument("--metrics", nargs="+", default=USUAL, choices=NAMES)
    asked = parser.parse_args()
    start, names = time.perf_counter(), tuple(asked.metrics)
    kinds = list(product(asked.classes, asked.worlds, asked.sizes))
    work = [
        (w, k, n, max(1, asked.sets // (4 if n >= 20_000 else 1)), asked.resamples, names)
        for k, w, n in kinds
    ]
    with ProcessPoolExecutor(asked.processes) as pool:
        found = dict(zip(kinds, pool.map(covered, work), strict=True))
    print(f"Coverage of 95 % intervals, %, {asked.sets} data sets a cell\n")
    print("K | world | n | " + " | ".join(names))
    print("|".join(["---"] * (3 + len(names))))
    odd = []
    for (k, world, n), sides in found.items():
        shares = {name: float(np.mean(np.array(side) == 0)) for name, side in sides.items()}
        row = [f"{100 * share:.1f}" for share in shares.values()]
        print(" | ".join([str(k), world, f"{n:,}", *row]))
        for name, share in shares.items():
            if not 0.93 <= share <= 0.97:
                above = float(np.mean(np.array(sides[name]) > 0))
                odd.append(f"{name}, K={k}, {world}, n={n:,}: {share:.3f} ({above:.3f} too high)")
    print("\nOutside 93 to 97 % (of misses, those of intervals that lie too high):\n")
    print("\n".join(f"- {line}" for line in odd) or "- none")
    print(f"\n{time.perf_counter() - start:.0f} s on {asked.processes} processes.")


if __name__ == "__main__":
    main()
