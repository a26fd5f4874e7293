"""Which calibrator? Regret of levelhead's rule beside fixed choices and probmetrics, in one run.

    python benchmarks/calibrators.py [--predictions FILE.npz] > benchmarks/results/calibrators.md

Of each world many sets of n examples are drawn; each method is fitted to them and judged on many
others. Regret: its NLL minus that of the best fixed method there (in hindsight, by the mean over
sets), in thousandths of a nat. `rule` is what `levelhead calibrate` does: the method that
cross-validation prefers if its gain over none is shown, else none.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from levelhead.calibrators import CALIBRATORS
from levelhead.calibrators.choose import choose, rank
from levelhead.outputs import Outputs, read_predictions

Draw = Callable[[int, np.random.Generator], Outputs]
FIXED = ("none", "temperature", "svs", "sms", "vector", "dirichlet")


def synthetic(classes: int, kind: str, n: int, source: np.random.Generator) -> Outputs:
    """About 80 % right; too sharp everywhere, by class, or as it should be."""
    push = 4.2 if classes == 100 else 3.0
    label = source.integers(0, classes, n)
    z = 1.7 * (push * np.eye(classes)[label] + source.normal(size=(n, classes)))
    shown = z.copy()
    if kind == "sharp":
        shown *= 1.5
    elif kind == "by class":
        weights = np.linspace(0.8, 1.8, classes)
        shown = shown * weights + np.linspace(-0.7, 0.7, classes)
    labels = (z + source.gumbel(size=z.shape)).argmax(1)
    return Outputs.from_logits(shown, labels)


def real(outputs: Outputs, n: int, source: np.random.Generator) -> Outputs:
    """A random part of someone's predictions."""
    return outputs.take(source.permutation(len(outputs))[:n])


def nll(outputs: Outputs, method: str, test: Outputs) -> float:
    """Of test, by a method fitted to outputs."""
    if method == "none":
        return float(test.rows.nll.mean())
    return float(CALIBRATORS[method].fit_outputs(outputs).apply(test).rows.nll.mean())


def main() -> None:
    """Print the table of regrets, and the times of fits."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--predictions", type=Path, help="logits of a trained network (npz)")
    parser.add_argument("--sets", type=int, default=20, help="sets a cell")
    parser.add_argument("--sizes", type=int, nargs="+", default=(300, 1000, 3000))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.INFO)
    from probmetrics.calibrators import get_calibrator

    worlds: dict[str, tuple[Draw, Outputs | None]] = {
        f"K = {k}, {kind}": (partial(synthetic, k, kind), None)
        for k in (10, 100)
        for kind in ("calibrated", "sharp", "by class")
    }
    if asked.predictions is not None:
        whole = read_predictions(asked.predictions, kind="logits")
        worlds[asked.predictions.stem] = (partial(real, whole), whole)
    columns = ("rule", *FIXED, "probmetrics logistic")
    print("| world | n | " + " | ".join(columns) + " | rule chose | seconds rule / probmetrics |")
    print("|---|---|" + "---|" * (len(columns) + 2))
    regrets = {name: [] for name in columns}
    for world, (draw, whole) in worlds.items():
        for n in asked.sizes:
            losses = {name: [] for name in columns}
            chosen: dict[str, int] = {}
            spent = [0.0, 0.0]
            for s in range(asked.sets):
                source = np.random.default_rng([s, n])
                if whole is None:
                    outputs, test = draw(n, source), draw(20_000, source)
                else:
                    order = source.permutation(len(whole))
                    outputs, test = whole.take(order[:n]), whole.take(order[n:])
                for method in FIXED:
                    few = method == "dirichlet" and outputs.classes > 10
                    losses[method].append(np.nan if few else nll(outputs, method, test))
                start = time.perf_counter()
                choice = choose(rank(outputs), outputs)
                losses["rule"].append(nll(outputs, choice.method, test))
                middle = time.perf_counter()
                peer = get_calibrator("logistic", logistic_binary_type="quadratic")
                peer.fit(outputs.probabilities().numpy(), outputs.labels.numpy())
                p = peer.predict_proba(test.probabilities().numpy())
                own = p[np.arange(len(p)), test.labels.numpy()]
                losses["probmetrics logistic"].append(-np.log(np.maximum(own, 1e-30)).mean())
                end = time.perf_counter()
                spent[0] += middle - start
                spent[1] += end - middle
                chosen[choice.method] = chosen.get(choice.method, 0) + 1
            means = {name: float(np.mean(values)) for name, values in losses.items()}
            best = np.nanmin([means[name] for name in FIXED])
            cells = []
            for name in columns:
                regrets[name].append(1000 * (means[name] - best))
                cells.append("–" if np.isnan(means[name]) else f"{regrets[name][-1]:.1f}")
            picks = ", ".join(f"{name} {times}" for name, times in sorted(chosen.items()))
            seconds = f"{spent[0] / asked.sets:.2f} / {spent[1] / asked.sets:.2f}"
            print(f"| {world} | {n:,} | {' | '.join(cells)} | {picks} | {seconds} |", flush=True)
    means = [f"{np.nanmean(regrets[name]):.1f}" for name in columns]
    print(f"| mean | | {' | '.join(means)} | | |")


if __name__ == "__main__":
    main()
