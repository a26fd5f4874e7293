"""Do intervals over seeds cover? Simulated networks of which the true difference is known.

    python benchmarks/seed_coverage.py > benchmarks/results/seed_coverage.md

Two settings over S seeds on one test set of n examples; examples differ in difficulty, seeds move a
whole network (standard deviation `spread`, of the second setting `times` that) and single examples.
A cell: how often the 95 % interval of the paired difference holds the truth over recipes' seeds and
test sets, and how often it says that the settings differ. 1,000 studies a cell (n = 3,000: 300) are
worth ± 1.4 points (± 2.5).
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

from levelhead.statistics.examples import example_variance
from levelhead.statistics.seeds import interaction, paired_seeds

SEEDS = (2, 3, 5)


def losses(kind: str, margin: np.ndarray) -> np.ndarray:
    """NLL or accuracy of an example by how hard it is for a network."""
    return np.log1p(np.exp(margin)) if kind == "nll" else (margin < 1.0).astype(float)


def truth(kind: str, spread: float, shift: float, times: float, draw: np.random.Generator) -> float:
    """The difference of the means over everything, by a million examples."""
    hard = 1.2 * draw.normal(size=1_000_000)
    means = []
    for of, by in ((spread, 0.0), (spread * times, shift)):
        margin = hard + of * draw.normal(size=len(hard)) + 0.7 * draw.normal(size=len(hard)) + by
        means.append(float(losses(kind, margin).mean()))
    return means[1] - means[0]


def cell(
    kind: str, seeds: int, n: int, spread: float, shift: float, times: float, studies: int,
    true: float, draw: np.random.Generator,
) -> tuple[float, float]:  # fmt: skip
    """Share of studies whose interval holds the truth, and of those that say "differ"."""
    held = differ = 0
    for _ in range(studies):
        hard = 1.2 * draw.normal(size=n)
        moved = draw.normal(size=(2, seeds, 1)) * spread * np.array([1, times])[:, None, None]
        margin = hard + moved + 0.7 * draw.normal(size=(2, seeds, n))
        margin[1] += shift
        change = torch.tensor(np.diff(losses(kind, margin), axis=0)[0])
        variance = example_variance(change)
        if kind == "accuracy":
            variance = max(variance, 1 / n**2)
        found = paired_seeds(change.mean(1).numpy(), variance, shared=interaction(change))
        held += found.low <= true <= found.high
        differ += not found.low <= 0 <= found.high
    return held / studies, differ / studies


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=1000)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    draw = np.random.default_rng(0)
    heads = " | ".join(f"S = {s}: holds, says differ" for s in SEEDS)
    print(f"| metric | spread of seeds | times | true difference | n | {heads} |")
    print("|---|---|---|---|---|" + "---|" * len(SEEDS))
    for kind in ("nll", "accuracy"):
        for spread in (0.0, 0.05, 0.2):
            for shift, times in ((0.0, 1.0), (0.1, 4.0)):
                same = shift == 0 and times == 1
                true = 0.0 if same else truth(kind, spread, shift, times, draw)
                for n in (300, 3000):
                    studies = asked.studies if n == 300 else max(1, 3 * asked.studies // 10)
                    cells = []
                    for seeds in SEEDS:
                        held, differ = cell(
                            kind, seeds, n, spread, shift, times, studies, true, draw
                        )
                        cells.append(f"{100 * held:.1f} %, {100 * differ:.0f} %")
                    row = (kind, f"{spread:g}", f"{times:g}", f"{true:.3f}", f"{n:,}", *cells)
                    print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
