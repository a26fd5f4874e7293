"""Costs: the answer that is cheapest to be wrong with, and whether the expected cost comes true."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from levelhead.decisions.plain import mean, plain
from levelhead.delimited import rows
from levelhead.errors import LevelheadError, nearest
from levelhead.labels import spelling
from levelhead.outputs import Outputs, probabilities

ABSTAIN = "abstain"


@dataclass(frozen=True, eq=False)
class Costs:
    """What each answer costs: row the true class, column the answer; gains are negative."""

    matrix: Tensor  # float64 [K, K]
    class_names: tuple[str, ...]
    abstain: Tensor | None = None  # float64 [K], the price of no answer by true class


@dataclass(frozen=True, eq=False)
class Decision:
    """The choice of each example, −1 to abstain, and what it costs on average by the model."""

    choice: Tensor  # int64 [N]
    expected: Tensor  # float64 [N]

    def as_json(self) -> dict[str, Any]:
        """Plain numbers."""
        fields: dict[str, Any] = plain(self)
        return fields


def of_errors(class_names: tuple[str, ...]) -> Costs:
    """Costs of 1 for every wrong answer, 0 for the right one."""
    return Costs(1 - torch.eye(len(class_names), dtype=torch.float64), class_names)


def read_costs(path: str | Path, class_names: tuple[str, ...]) -> Costs:
    """Read a table of costs (CSV in any dialect): a row a true class, a column an answer.

    The first line names the answers (its first cell is free), the first column the true classes,
    in any order; a column `abstain` is the price of no answer. Raises LevelheadError naming the
    line of a class that is unknown, missing or there twice, of a cell that is no number.
    """
    table = [(line, [*map(spelling, cells)]) for line, cells in rows(Path(path))]
    answers = table[0][1][1:] if table else []
    priced = ABSTAIN in answers and ABSTAIN not in class_names
    header = [*class_names, *([ABSTAIN] if priced else [])]
    _same(f"{path}: first line", answers, header)
    _same(f"{path}: first column", [row[0] for _, row in table[1:]], list(class_names))
    costs = torch.empty((len(class_names), len(header)), dtype=torch.float64)
    for number, row in table[1:]:
        where = f"{path}: line {number}"
        if len(row) != len(answers) + 1:
            raise LevelheadError(f"{where}: {len(row) - 1} costs; must be {len(answers)}")
        for name, cell in zip(answers, row[1:], strict=True):
            try:
                cost = float(cell)
            except ValueError:
                cost = math.nan
            if not math.isfinite(cost):
                raise LevelheadError(f"{where}, column {name}: {cell!r} is no cost; give a number")
            costs[class_names.index(row[0]), header.index(name)] = cost
    k = len(class_names)
    return Costs(costs[:, :k], class_names, costs[:, k] if priced else None)


def _same(where: str, found: list[str], wanted: list[str]) -> None:
    """Raise LevelheadError unless `found` holds each of `wanted` once."""
    for i, name in enumerate(found):
        if name not in wanted:
            raise LevelheadError(f"{where}: {name!r} is no class; {nearest(name, wanted)}")
        if name in found[:i]:
            raise LevelheadError(f"{where}: {name!r} occurs twice; remove one")
    if gone := [name for name in wanted if name not in found]:
        raise LevelheadError(f"{where}: {gone[0]!r} is missing; add it")


def decide(outputs: Outputs, costs: Costs, abstain_price: float | None = None) -> Decision:
    """The choice with the least expected cost Σ_y p_y C[y, choice] (Bayes; Elkan 2001).

    Of equal costs the first class, abstention last. `abstain_price` allows abstaining at one price
    and overrides the table's column. Raises LevelheadError for classes that differ.
    """
    table = _table(outputs, costs, abstain_price)
    least = [(probabilities(outputs.kind, s) @ table).min(1) for s, _ in outputs.pieces()]
    choice = torch.cat([part.indices for part in least])
    expected = torch.cat([part.values for part in least])
    return Decision(torch.where(choice == outputs.classes, -1, choice), expected)


def evaluate(
    outputs: Outputs, costs: Costs, abstain_price: float | None = None, *, level: float = 0.95
) -> dict[str, Any]:
    """What the decisions cost on labelled examples; every mean as value, low, high.

    `cost` of the cheapest expected choice, `argmax_cost` of always answering the likeliest class,
    `saved` the paired difference, `expected` by the model, `surprise` = cost − expected: where its
    interval leaves out 0, `believable` is False and the probabilities should be calibrated first.
    `changed` and `abstained` are shares of the examples.
    """
    decision, likeliest = decide(outputs, costs, abstain_price), outputs.predictions()
    table = _table(outputs, costs, abstain_price)
    paid = table[outputs.labels, decision.choice]  # −1 is the last column: abstention
    plainly = table[outputs.labels, likeliest]
    units = outputs.units
    surprise = mean(paid - decision.expected, level, units)
    return {
        "n": len(outputs),
        "cost": mean(paid, level, units),
        "argmax_cost": mean(plainly, level, units),
        "saved": mean(plainly - paid, level, units),
        "expected": mean(decision.expected, level, units),
        "surprise": surprise,
        "believable": surprise["low"] <= 0 <= surprise["high"],
        "changed": float((decision.choice != likeliest).double().mean()),
        "abstained": float((decision.choice == -1).double().mean()),
    }


def _table(outputs: Outputs, costs: Costs, price: float | None) -> Tensor:
    """Costs of every choice, [K, K] or, with abstention last, [K, K + 1]."""
    if costs.class_names != outputs.class_names:
        raise LevelheadError("costs: for other classes than these outputs; read them for these")
    if price is not None and not math.isfinite(price):
        raise LevelheadError(f"abstain price {price}: must be a finite number")
    extra = costs.abstain if price is None else torch.full_like(costs.matrix[0], price)
    return costs.matrix if extra is None else torch.cat([costs.matrix, extra[:, None]], 1)
