"""How often is a calibrated model called something else? False verdicts of `levelhead audit`.

    python benchmarks/verdicts.py > benchmarks/results/verdicts.md

Every world is calibrated, so each verdict against it is false; at a level of 95 % that may happen
in 5 % of sets, and 200 sets a cell are worth ± 3 points. gap: said to be over- or underconfident.
The tests: p below 0.05 of the ECE, Spiegelhalter's z, Kuiper's statistic. advised: a calibrator is
(10 classes, the default methods); harm: the mean change of the population's NLL where it is, nats.
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from statistics import NormalDist

import numpy as np
import torch

from levelhead.calibrators import CALIBRATORS
from levelhead.calibrators.choose import choose, rank
from levelhead.judging import confidence_gap
from levelhead.metrics import ece
from levelhead.outputs import Outputs
from levelhead.statistics.calibration_error import absolute_error, consistency
from levelhead.statistics.calibration_tests import kuiper, spiegelhalter

CLASSES = 10
WORLDS = ("99.9 % right", "99.3 % right", "95 % right", "77 % right", "imbalanced", "grouped")
PUSH = dict(zip(WORLDS, (7.6, 6.0, 4.6, 3.0, 3.0, 3.0), strict=True))
GROUP = 10  # examples that belong together


def draw(world: str, n: int, source: np.random.Generator) -> Outputs:
    """Logits whose softmax is the law of the label.

    imbalanced: 90 % of the examples of one class. grouped: tens of examples share a class, most of
    their noise, and whether an answer is right (a Gaussian copula of correlation 0.6).
    """
    grouped = world == "grouped"
    of = np.arange(n) // (GROUP if grouped else 1)
    groups = int(of[-1]) + 1
    share = np.full(CLASSES, 1 / CLASSES)
    if world == "imbalanced":
        share = np.r_[0.9, np.full(CLASSES - 1, 0.1 / (CLASSES - 1))]
    noise = source.normal(size=(n, CLASSES))
    luck = source.normal(size=n)
    if grouped:
        noise = np.sqrt(0.6) * source.normal(size=(groups, CLASSES))[of] + np.sqrt(0.4) * noise
        luck = np.sqrt(0.6) * source.normal(size=groups)[of] + np.sqrt(0.4) * luck
    push = PUSH[world] * np.eye(CLASSES)[source.choice(CLASSES, groups, p=share)[of]]
    z = 1.6 * (push + noise) + np.log(share)
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    order = np.argsort(-p, 1, kind="stable")
    place = np.array([NormalDist().cdf(x) for x in luck])[:, None]
    rank = (place > np.take_along_axis(p, order, 1).cumsum(1)[:, :-1]).sum(1)
    labels = order[np.arange(n), rank]
    return Outputs.from_logits(z, labels, groups=[str(g) for g in of] if grouped else None)


def verdicts(cell: tuple[str, int, int]) -> dict[str, float]:
    """Of one world and n: the share of sets with each verdict."""
    world, n, sets = cell
    torch.set_num_threads(1)
    large = draw(world, 100_000, np.random.default_rng(1))
    before = float(large.rows.nll.mean())
    counts = dict.fromkeys(("gap", "ECE", "Spiegelhalter", "Kuiper", "advised"), 0.0)
    harms = []
    for seed in range(sets):
        outputs = draw(world, n, np.random.default_rng([seed, n]))
        rows, units = outputs.rows, outputs.units
        _, gap = confidence_gap(outputs, seed=seed)
        cells = ece.cells(ece.prepare(outputs), units)
        counts["gap"] += not gap.low <= 0 <= gap.high
        counts["ECE"] += consistency(cells, absolute_error, 1000, seed) < 0.05
        for name, test in (("Spiegelhalter", spiegelhalter), ("Kuiper", kuiper)):
            counts[name] += test(rows.confidence, rows.correct, units).p_value < 0.05
        method = choose(rank(outputs, seed=seed), outputs).method
        counts["advised"] += method != "none"
        if method != "none":
            after = CALIBRATORS[method].fit_outputs(outputs).apply(large)
            harms.append(float(after.rows.nll.mean()) - before)
    shares = {name: times / sets for name, times in counts.items()}
    return shares | {"harm": float(np.mean(harms)) if harms else float("nan")}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", type=int, default=200, help="sets a cell")
    parser.add_argument("--sizes", type=int, nargs="+", default=(100, 300, 1000))
    parser.add_argument("--worlds", nargs="+", default=WORLDS, choices=WORLDS)
    parser.add_argument("--processes", type=int, default=2)
    asked = parser.parse_args()
    start = time.perf_counter()
    cells = [(world, n, asked.sets) for world, n in product(asked.worlds, asked.sizes)]
    with ProcessPoolExecutor(asked.processes) as pool:
        results = list(pool.map(verdicts, cells))
    print(f"False verdicts on calibrated models, % of {asked.sets} sets a cell\n")
    print("| world | n | gap | ECE | Spiegelhalter | Kuiper | advised | harm |")
    print("|---|---|---|---|---|---|---|---|")
    for (world, n, _), shares in zip(cells, results, strict=True):
        numbers = [f"{100 * share:.1f}" for name, share in shares.items() if name != "harm"]
        harm = shares["harm"]
        shown = "–" if np.isnan(harm) else f"{harm:+.4f}"
        print(f"| {world} | {n:,} | {' | '.join(numbers)} | {shown} |")
    print(f"\n{time.perf_counter() - start:.0f} s on {asked.processes} processes.")


if __name__ == "__main__":
    main()
