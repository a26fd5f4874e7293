"""Temperature scaling: one number that divides the logits."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from levelhead.calibrators.calibrator import LOG_ZERO, Calibrator, Layer, check_classes
from levelhead.errors import LevelheadError
from levelhead.outputs import Outputs
from levelhead.outputs.validate import Kind, first
from levelhead.statistics.examples import (
    count_units,
    example_variance,
    normal_quantile,
    small_sample,
)

WIDEST = 1e3
"""The largest temperature, in units of the largest difference of two logits of one row."""
_SMALLEST = 1e-12  # in the same units
_PIECE = 1 << 18  # scores at a time: a float64 copy that stays in the cache
_LIKELY = 2000  # up to so many examples the likelihood ratio is asked, too
_START = 20_000  # rows that give the first guess
_COPIED = 1 << 26  # up to so many probabilities their logarithms are kept, else made anew


Sums = tuple[float, float, float, float]
"""What the fit needs over examples at one β: see `sums_of`."""


@dataclass(frozen=True)
class Temperature(Calibrator):
    """Logits divided by `temperature` (Guo et al. 2017); the prediction never changes.

    `low` and `high` are its interval. `limit` is None, or why there is no best temperature:
    "T -> 0" (no example of the fit is wrong, or as good as none: sharper is always better),
    "T -> infinity" (the scores point away from the labels), "flat" (all scores of a row are equal).
    """

    method: ClassVar[str] = "temperature"
    title: ClassVar[str] = "Temperature scaling"
    size = staticmethod(lambda k: 1)

    temperature: float
    low: float
    high: float
    n: int
    fitted_on: str = ""
    limit: Literal["T -> 0", "T -> infinity", "flat"] | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ValueError(f"temperature {self.temperature}")

    @classmethod
    def fit(
        cls, logits: Any, labels: Any, *, fitted_on: str = "", level: float = 0.95
    ) -> Temperature:
        """The temperature that minimises the NLL of logits [N, K] for labels [N].

        The NLL is convex in β = 1/T, so the zero of its derivative is found by Newton steps on
        log β, kept in a bracket: T from 1e-12 to 1e3 times the largest difference of two logits of
        one row. Exact to 1e-6, whatever the logits' unit, and it cannot diverge. In float64.

        Interval: log T ± t · se, with the sandwich standard error, which holds whether or not the
        tempered model is true: se² = Σψ² / (Σψ')² / β², ψ = E_p z − z_label (White 1982), summed by
        unit where the outputs have groups. Up to 2,000 examples each end reaches to that of the
        likelihood ratio at least: with few errors the squares are too few. Coverage:
        benchmarks/interval_coverage.py.

        Where the best lies at or beyond an end of the bracket, `limit` says so and the interval is
        one-sided, by likelihood ratio. For T -> infinity that end is the temperature. For T -> 0
        it would turn the next wrong answer into an NLL of hundreds, so the temperature is then
        the one nearest to 1 that the examples do not rule out: min(1, high).
        Raises LevelheadError for what Outputs refuses.
        """
        return cls.fit_outputs(
            Outputs.from_logits(logits, labels), fitted_on=fitted_on, level=level
        )

    @classmethod
    def fit_outputs(
        cls, outputs: Outputs, *, fitted_on: str = "", level: float = 0.95
    ) -> Temperature:
        """`fit` on Outputs of either kind (probabilities: their logarithms) and of any split.

        Raises LevelheadError where a label's probability is exactly 0: no temperature fixes that.
        """
        scores, labels, n = outputs.scores, outputs.labels, len(outputs)
        check_classes(outputs, cls.method)
        kind = outputs.kind
        if kind == "probabilities":
            i = first(scores.gather(1, labels[:, None])[:, 0] == 0)
            if i is not None:
                raise LevelheadError(
                    f"row {i}: the label's probability is exactly 0, which no temperature fixes; "
                    "give logits, or probabilities with more digits"
                )
            if scores.numel() <= _COPIED:
                scores, kind = _logits(kind, scores), "logits"

        def some_sums(log_beta: float, step: int = 1) -> Sums:
            return sums_of(kind, scores[::step], labels[::step], math.exp(log_beta))

        guess, step, largest = 0.0, n // _START, spread(kind, scores)
        if step > 1 and largest:
            ends = _ends(largest)
            guess = min(max(guess, ends[0]), ends[1])
            guess = _root(lambda u: some_sums(u, step), ends, guess, 1e-3)[0]
        units = outputs.units

        def slopes(log_beta: float) -> Tensor:
            return slopes_of(kind, scores, labels, math.exp(log_beta))

        return cls.of_sums(
            some_sums, largest, n, guess, fitted_on=fitted_on, level=level, units=units,
            slopes=slopes,
        )  # fmt: skip

    @classmethod
    def of_sums(
        cls,
        sums: Callable[[float], Sums],
        spread: float,
        n: int,
        guess: float = 0.0,
        *,
        fitted_on: str = "",
        level: float = 0.95,
        units: Tensor | None = None,
        slopes: Callable[[float], Tensor] | None = None,
    ) -> Temperature:
        """`fit` from `sums(log β)` over n examples (`sums_of`), wherever their logits are.

        spread: the largest difference of two logits of a row. With `units` int64 [n] also
        `slopes(log β)`, dNLL/d log β of each.
        """
        if spread == 0:
            return cls(1.0, 0.0, math.inf, n, fitted_on, "flat")
        ends = _ends(spread)
        guess = min(max(guess, ends[0]), ends[1])
        log_beta, (nll, _, curve, squares) = _root(sums, ends, guess, 1e-5)
        z = normal_quantile(level)
        if log_beta in ends:
            return cls._at_limit(log_beta, nll, sums, ends, z, n, fitted_on)
        # `curve` is dΣψ/du at the last evaluation, a step of less than 1e-5 away.
        design = 1.0
        if units is not None and slopes is not None:
            own = slopes(log_beta)
            design = max(1.0, example_variance(own, units) * n * n / max(squares, 1e-300))
        z = normal_quantile(small_sample(level, count_units(n, units)))
        half = z * math.sqrt(design * squares * n / max(n - 1, 1)) / max(curve, 1e-300)
        half = min(half, 100.0) if n > 1 else 100.0  # e^100 is as good as infinite, and finite
        colder, warmer = half, half
        if n <= _LIKELY:
            limit = nll + z * z / 2 * design
            colder = max(half, _reach(sums, log_beta, limit, 1.0, min(100.0, ends[1] - log_beta)))
            warmer = max(half, _reach(sums, log_beta, limit, -1.0, min(100.0, log_beta - ends[0])))
        best = math.exp(-log_beta)
        return cls(best, best * math.exp(-colder), best * math.exp(warmer), n, fitted_on)

    @classmethod
    def _at_limit(
        cls,
        end: float,
        nll: float,
        sums: Callable[[float], Sums],
        ends: tuple[float, float],
        z: float,
        n: int,
        fitted_on: str,
    ) -> Temperature:
        inside, outside = end, ends[0] if end == ends[1] else ends[1]
        for _ in range(30):
            middle = (inside + outside) / 2
            near = sums(middle)[0] - nll <= z * z / 2
            inside, outside = (middle, outside) if near else (inside, middle)
        bound = math.exp(-inside)
        if end == ends[0]:
            return cls(math.exp(-end), bound, math.inf, n, fitted_on, "T -> infinity")
        return cls(min(1.0, bound), 0.0, bound, n, fitted_on, "T -> 0")

    def apply(self, outputs: Outputs) -> Outputs:
        """Outputs with logits / T, or probabilities p^(1/T) renormalised; the kind stays.

        Scores become float64: in float32 two logits that differ could become equal.
        """
        check_classes(outputs, self.method)
        if outputs.kind == "logits":
            scores = outputs.scores.double() / self.temperature
        else:
            scores = torch.softmax(outputs.log_probabilities() / self.temperature, 1)
        return dataclasses.replace(outputs, scores=scores)

    def layer(self) -> Layer:
        """The same as a module."""
        return Layer(lambda z, t: torch.log_softmax(z / t, 1), t=self.temperature)

    def summary(self) -> dict[str, Any]:
        """The block `temperature` of a judgement: value, low, high, fitted_on, n (and limit)."""
        block = {
            "value": self.temperature,
            "low": self.low,
            "fitted_on": self.fitted_on,
            "n": self.n,
        }
        block["high"] = self.high if math.isfinite(self.high) else None
        return block | ({"limit": self.limit, "reason": self.sentence()} if self.limit else {})

    def sentence(self) -> str:
        """What was found, for people."""
        on = f"on {self.n:,} examples" + (f" ({self.fitted_on})" if self.fitted_on else "")
        if self.limit == "T -> 0":
            return (
                f"No example {on} speaks against ever sharper probabilities, so the best "
                f"temperature has no lower limit; {self.temperature:.3g} is the value nearest to 1 "
                "that they allow."
            )
        if self.limit == "T -> infinity":
            return (
                f"The scores {on} are no better than chance at telling the label, so the best "
                f"temperature is infinite; {self.temperature:.3g} makes them all but uniform."
            )
        if self.limit == "flat":
            return f"All classes score the same {on}: every temperature is as good, 1 is kept."
        return (
            f"Temperature {self.temperature:.3g} (interval {self.low:.3g} to {self.high:.3g}), "
            f"fitted {on}."
        )

    def to_json(self) -> dict[str, Any]:
        """A JSON object with its `method`; an infinite `high` is None."""
        return super().to_json() | {"high": self.high if math.isfinite(self.high) else None}

    @classmethod
    def from_json(cls, stored: Any) -> Temperature:
        """What `to_json` gave. Raises LevelheadError if it is not that."""
        temperature = super().from_json(stored)
        return (
            temperature
            if temperature.high is not None
            else dataclasses.replace(temperature, high=math.inf)
        )


def _logits(kind: Kind, scores: Tensor) -> Tensor:
    """Logits as they are, probabilities as logarithms in float64."""
    return scores if kind == "logits" else scores.double().log().clamp_(min=LOG_ZERO)


def _ends(spread: float) -> tuple[float, float]:
    """The bracket of log β for logits that differ by so much."""
    return -math.log(WIDEST * spread), -math.log(_SMALLEST * spread)


def spread(kind: Kind, scores: Tensor) -> float:
    """The largest difference of two logits of one row; of log 0 nothing is counted."""
    largest = size = 0.0
    for piece in scores.split(max(1, _PIECE // scores.shape[1])):
        z = _logits(kind, piece)
        top, least = z.amax(1), z.amin(1)
        if float(least.min()) <= LOG_ZERO:
            least = z.masked_fill(z <= LOG_ZERO, math.inf).amin(1)
        largest = max(largest, float((top.double() - least.double()).max()))
        size = max(size, float(top.abs().max()))
    return largest if largest > max(1e-12 * size, 1e-30) else 0.0


def sums_of(kind: Kind, scores: Tensor, labels: Tensor, beta: float) -> Sums:
    """Over rows, with z the logits and u = log β: Σ NLL, dΣ/du, β² Σ Var z, β² Σ ψ²."""
    nll = slope = curve = squares = 0.0
    one = torch.ones(scores.shape[1], dtype=torch.float64)
    step = max(1, _PIECE // scores.shape[1])
    for piece, label in zip(scores.split(step), labels.split(step), strict=True):
        z = _logits(kind, piece).double()
        d = z - z.amax(1, keepdim=True)
        own = d.gather(1, label[:, None]).squeeze(1)
        e = (beta * d).exp_()
        s0 = e @ one
        s1 = e.mul_(d) @ one
        s2 = e.mul_(d) @ one
        centre = s1 / s0
        psi = centre - own
        nll += float((s0.log() - beta * own).sum())
        slope += float(psi.sum())
        curve += float((s2 / s0 - centre.square()).sum())
        squares += float(psi @ psi)
    return nll, beta * slope, beta * beta * curve, beta * beta * squares


def slopes_of(kind: Kind, scores: Tensor, labels: Tensor, beta: float) -> Tensor:
    """dNLL/du of each row, u = log β, float64 [N]."""
    found = []
    step = max(1, _PIECE // scores.shape[1])
    for piece, label in zip(scores.split(step), labels.split(step), strict=True):
        z = _logits(kind, piece).double()
        mean = (torch.softmax(beta * z, 1) * z).sum(1)
        found.append(beta * (mean - z.gather(1, label[:, None])[:, 0]))
    return torch.cat(found)


def _reach(
    sums: Callable[[float], Sums],
    best: float,
    limit: float,
    side: float,
    most: float,
) -> float:
    """How far from `best` (in u, to one `side`) the NLL stays below `limit`; `most` at most."""
    inside, outside = 0.0, 0.1
    while outside < most and sums(best + side * outside)[0] <= limit:
        inside, outside = outside, 2 * outside
    if outside >= most and sums(best + side * most)[0] <= limit:
        return most
    outside = min(outside, most)
    for _ in range(12):
        middle = (inside + outside) / 2
        near = sums(best + side * middle)[0] <= limit
        inside, outside = (middle, outside) if near else (inside, middle)
    return inside


def _root(
    sums: Callable[[float], Sums],
    ends: tuple[float, float],
    first: float,
    tolerance: float,
) -> tuple[float, Sums]:
    """Where the slope crosses 0, by Newton steps kept inside what is known of the bracket.

    An end of `ends` itself is returned where the slope still points beyond it.
    """
    low, high = ends
    proven = [False, False]  # whether the slope was seen to be below 0 at low, above 0 at high
    u = first
    for attempt in range(200):
        total = sums(u)
        _, slope, curve, _ = total
        if (u == ends[0] and slope >= 0) or (u == ends[1] and slope <= 0):
            return u, total
        if slope < 0:
            low, proven[0] = u, True
        else:
            high, proven[1] = u, True
        step = -slope / curve if curve > 0 else math.copysign(math.inf, -slope)
        if abs(step) < tolerance or high - low < 1e-12:
            return min(max(u + step, low), high), total
        # On separable data Newton creeps for ever: from the twelfth step on, leap now and then.
        if low < u + step < high and (attempt < 12 or attempt % 3):
            u += step
        elif step < 0:
            u = (low + high) / 2 if proven[0] else low
        else:
            u = (low + high) / 2 if proven[1] else high
    return u, total
