"""Negative log-likelihood, its split into refinement and calibration, and that of soft labels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from levelhead.calibrators.temperature import Temperature
from levelhead.metrics.metric import Metric, error_cost, mean, number, once
from levelhead.outputs import Outputs, log_probabilities
from levelhead.statistics.examples import (
    count_units,
    example_variance,
    normal_quantile,
    small_sample,
)

_ROWS, _SCORES = 2_000, 1_000_000  # for a temperature that Newton steps on all make exact


def _undefined(outputs: Outputs) -> str | None:
    zeros = outputs.rows.nll.isinf().nonzero()
    if not len(zeros):
        return None
    return (
        f"infinite: the label's probability is exactly 0 in {len(zeros)} of {len(outputs)} rows, "
        f"first in row {int(zeros[0])}; give logits, or probabilities with more digits"
    )


def _error_cost(outputs: Outputs) -> float:
    """By the model's odds: −log q_y where y is not the prediction; entropy without its own part."""
    rows = outputs.rows
    if outputs.kind == "confidence":  # what an error cost here
        wrong = rows.nll[rows.correct == 0]
        return float(wrong.mean()) if len(wrong) else 0.0
    own = torch.special.entr(rows.confidence)
    return error_cost(outputs, (rows.entropy - own).clamp(min=0))


nll = Metric(
    name="nll",
    meaning="mean −log of the probability of the true class",
    title="Negative log-likelihood",
    short="NLL",
    heading="NLL",
    unit="nats",
    direction="down",
    source="mean −log probability of the label, natural logarithm (a proper score; Good 1952)",
    prepare=lambda outputs: outputs.rows.nll,
    value=mean("nll"),
    interval="bootstrap",
    needs="likelihood",
    undefined=_undefined,
    error_cost=_error_cost,
)


@dataclass(frozen=True, eq=False)
class Tempered:
    """The NLL of each example as given and near the best temperature, float64 [N].

    With u = −log T: `loss` at a temperature next to the best, `slope` and `bend` its first two
    derivatives by u.
    """

    nll: Tensor
    loss: Tensor
    slope: Tensor
    bend: Tensor
    limit: str | None  # why there is no best temperature

    def __len__(self) -> int:
        return len(self.nll)

    def refinement(self, weights: Tensor | None = None) -> Tensor:
        """The lowest (weighted) mean loss, one Newton step from `loss`, [...]."""
        means = [
            (weights @ x / weights.sum(-1)) if weights is not None else x.mean()
            for x in (self.loss, self.slope, self.bend)
        ]
        return means[0] - torch.where(means[2] > 0, means[1].square() / means[2] / 2, 0)


@once
def tempered(outputs: Outputs) -> Tempered:
    """Fit a temperature to some examples, then take Newton steps on all until they are small."""
    step = max(1, min(len(outputs) // _ROWS, outputs.scores.numel() // _SCORES))
    few = Outputs(outputs.kind, outputs.scores[::step], outputs.labels[::step], outputs.class_names)
    fitted = Temperature.fit_outputs(few)
    if fitted.limit and step > 1:
        fitted = Temperature.fit_outputs(outputs)
    derivatives = _derivatives(outputs, 1 / fitted.temperature)
    if fitted.limit:
        derivatives[1:] = 0  # the loss stays at the end of the bracket
        if fitted.limit == "T -> infinity":
            derivatives[0] = math.log(outputs.classes)
    elif abs(move := float(derivatives[1].mean() / derivatives[2].mean())) > 3e-3:
        derivatives = _derivatives(outputs, math.exp(-move) / fitted.temperature)
    return Tempered(outputs.rows.nll, derivatives[0], derivatives[1], derivatives[2], fitted.limit)


def _derivatives(outputs: Outputs, beta: float) -> Tensor:
    """The NLL of logits times β, and its first two derivatives by log β, float64 [3, N]."""
    found, start = torch.empty(3, len(outputs), dtype=torch.float64), 0
    one = torch.ones(outputs.classes, dtype=torch.float64)
    for scores, labels in outputs.pieces():
        z = scores.double() if outputs.kind == "logits" else scores.double().log().clamp(min=-1e30)
        z = (z - z.amax(1, keepdim=True)).mul_(beta)
        own = z.gather(1, labels[:, None]).squeeze(1)
        e = z.exp()
        total = e @ one
        mean = e.mul_(z) @ one / total
        square = e.mul_(z) @ one / total
        here = found[:, start : start + len(labels)]
        here[0], here[1] = total.log() - own, mean - own
        here[2] = square - mean.square() + here[1]
        start += len(labels)
    return found


def _no_temperature(outputs: Outputs) -> str | None:
    if (why := _undefined(outputs)) is not None:
        return why
    if tempered(outputs).limit == "T -> 0":
        return "no example is wrong, or as good as none: the best temperature has no lower limit"
    return None


def _refinement(prepared: Tempered, weights: Tensor | None = None) -> dict[str, Any]:
    return {"nll_refinement": number(prepared.refinement(weights))}


def _calibration(prepared: Tempered, weights: Tensor | None = None) -> dict[str, Any]:
    as_it_is = mean("nll")(prepared.nll, weights)["nll"]
    gain = as_it_is - prepared.refinement(weights)
    return {"nll_calibration": number(gain.clamp(min=0))}


def _root_ends(
    prepared: Tempered, level: float, units: Tensor | None
) -> tuple[float, float] | None:
    """The calibration part D is like a square of (T − 1), so its root has the normal interval.

    √D ± z · deviation/(2√D √n), cut at 0; its limit where D is 0 has the slope's deviation.
    """
    if len(prepared) < 2:
        return None
    part = float(_calibration(prepared)["nll_calibration"])
    if part > 1e-9:
        half = math.sqrt(example_variance(prepared.nll - prepared.loss, units) / part) / 2
    else:
        bend = max(float(prepared.bend.mean()), 1e-300)
        half = math.sqrt(example_variance(prepared.slope, units) / 2 / bend)
    half *= normal_quantile(small_sample(level, count_units(len(prepared), units)))
    return max(0.0, math.sqrt(part) - half) ** 2, (math.sqrt(part) + half) ** 2


nll_refinement = Metric(
    name="nll_refinement",
    title="NLL beyond one temperature",
    unit="nats",
    direction="down",
    source="NLL after the temperature that is best for these examples: what no temperature can "
    "fix (Berta et al. 2025)",
    prepare=tempered,
    value=_refinement,
    interval="bootstrap",
    needs="probabilities",
    influence=lambda prepared: prepared.loss - prepared.loss.mean(),
    undefined=_no_temperature,
)

nll_calibration = Metric(
    name="nll_calibration",
    title="NLL that one temperature mends",
    unit="nats",
    direction="down",
    source="NLL − its refinement: what the best temperature fixes (Berta et al. 2025)",
    prepare=tempered,
    value=_calibration,
    interval="bootstrap",
    needs="probabilities",
    influence=lambda prepared: (d := prepared.nll - prepared.loss) - d.mean(),
    ends=_root_ends,
    undefined=_no_temperature,
)


@once
def _soft(outputs: Outputs) -> Tensor:
    assert outputs.label_distribution is not None
    found, start = [], 0
    for scores, labels in outputs.pieces():
        shares = outputs.label_distribution[start : start + len(labels)]
        start += len(labels)
        logs = log_probabilities(outputs.kind, scores)
        found.append(-torch.where(shares > 0, shares * logs, 0).sum(1))
    return torch.cat(found)


soft_nll = Metric(
    name="soft_nll",
    title="NLL of what annotators said",
    unit="nats",
    direction="down",
    source="mean cross-entropy from the shares of annotators to the probabilities, nats "
    "(Peterson et al. 2019)",
    prepare=_soft,
    value=mean("soft_nll"),
    interval="bootstrap",
    needs="label_distribution",
    undefined=lambda outputs: (
        "infinite: annotators gave a label whose probability is exactly 0"
        if bool(_soft(outputs).isinf().any())
        else None
    ),
)
