"""Geometry of the penultimate layer: class templates, projections, spread and neural collapse.

A template is a row w_k of the head, a feature x the vector that the head multiplies (both as in
Müller, Kornblith and Hinton 2019). The measures NC1 to NC4 are Papyan, Han and Donoho's (2020).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from levelhead.errors import LevelheadError, nearest
from levelhead.outputs import Outputs
from levelhead.outputs.validate import first
from levelhead.statistics.examples import normal_quantile, wilson

MEASURES = {
    "within": "within-class spread, tr Σ_W = mean_k mean_{i in k} ‖x_i − μ_k‖²",
    "between": "between-class spread, tr Σ_B = mean_k ‖μ_k − μ‖², μ = mean_k μ_k",
    "ratio": "tr Σ_W / tr Σ_B",
    "own_distance": "‖x − w_y‖, mean",
    "other_distance": "mean over k ≠ y of ‖x − w_k‖, mean",
    "equidistance": "deviation / mean over k ≠ y of ‖x − w_k‖, mean; 0: equally far from all",
    "angle": "degrees between μ_k − μ and w_k − w, mean over classes",
    "feature_norm": "‖x‖, mean",
    "template_norm": "‖w_k‖, mean over classes",
    "nc1": "tr(Σ_W Σ_B⁺) / K: variability collapse",
    "nc2_norms": "deviation / mean over k of ‖μ_k − μ‖: equal norms",
    "nc2_angles": "deviation over k ≠ l of cos(μ_k − μ, μ_l − μ): equal angles",
    "nc2_maximal": "mean over k ≠ l of |cos(μ_k − μ, μ_l − μ) + 1/(K − 1)|: largest angles",
    "nc2_template_norms": "deviation / mean over k of ‖w_k − w‖",
    "nc2_template_angles": "deviation over k ≠ l of cos(w_k − w, w_l − w)",
    "nc3": "‖(W − w)/‖W − w‖ − (M − μ)/‖M − μ‖‖, Frobenius: self-duality, 0 to 2",
    "nc4": "share of examples whose nearest class mean is not the head's choice",
}
"""What `geometry` measures. Every class counts the same, however many examples it has (but for
nc4); w = mean_k w_k is taken off, as softmax cannot see it (after weight decay it is all but 0)."""

_PIECE = 1 << 20  # float64 numbers of features worked on at once
_ROOTS = ("angle", "nc2_norms", "nc2_angles", "nc2_maximal", "nc3")
"""Sizes of deviations: noise adds to their squares."""
_LINEAR = 6  # statistics of an example that no class mean enters, see `_statistics`


@dataclass(frozen=True, eq=False)
class Basis:
    """The plane through three templates: `origin` float64 [D+1] and orthonormal `axes` [2, D+1]."""

    origin: Tensor
    axes: Tensor

    def project(self, x: Tensor, last: float | Tensor = 1.0) -> Tensor:
        """Coordinates float64 [n, 2] of x [n, D]; `last` is its last coordinate, 1 or the bias."""
        there = x.double() @ self.axes[:, :-1].T
        last = torch.as_tensor(last, dtype=torch.float64).reshape(-1, 1)
        return there + last * self.axes[:, -1] - self.axes @ self.origin


@dataclass(frozen=True, eq=False)
class Projection:
    """Some examples of three classes, seen in the plane of the three templates."""

    names: tuple[str, str, str]
    points: tuple[np.ndarray, ...]  # float64 [n, 2] of each class
    templates: np.ndarray  # float64 [3, 2]
    split: str | None


def basis(head_weight: Tensor, head_bias: Tensor | None, classes: Sequence[int]) -> Basis:
    """Orthonormal basis of the plane through three templates (Müller et al. 2019, section 2).

    The plane lies in R^(D+1), through the points t_k = [w_k, b_k] (without a bias, b_k = 0);
    features are [x, 1] there. The origin is the mean of the three; the first axis goes from the
    first to the second, the third template lies above it. Raises LevelheadError where the three
    lie on a line.
    """
    weight = head_weight.double()
    bias = weight.new_zeros(len(weight)) if head_bias is None else head_bias.double()
    if len(set(classes)) != 3 or not all(0 <= k < len(weight) for k in classes):
        raise LevelheadError(
            f"classes {list(classes)}: must be three different ones of 0 to {len(weight) - 1}"
        )
    points = torch.cat([weight, bias[:, None]], 1)[list(classes)]
    side, second = points[1] - points[0], points[2] - points[0]
    axis = side / side.norm().clamp_min(1e-300)
    upright = second - (second @ axis) * axis
    upright = upright - (upright @ axis) * axis  # again: flat triangles lose digits
    if not upright.norm() > 1e-6 * max(float(side.norm()), float(second.norm())):
        raise LevelheadError(
            f"classes {list(classes)}: their templates lie on a line, which spans no plane; "
            "choose others"
        )
    return Basis(points.mean(0), torch.stack([axis, upright / upright.norm()]))


def position(outputs: Outputs, name: int | str) -> int:
    """The position of a class given by name or position; LevelheadError where there is none."""
    if isinstance(name, str):
        if name not in outputs.class_names:
            raise LevelheadError(f"class {name!r}: {nearest(name, list(outputs.class_names))}")
        return outputs.class_names.index(name)
    if not 0 <= name < outputs.classes:
        raise LevelheadError(f"class {name}: must be a position from 0 to {outputs.classes - 1}")
    return name


def project(
    outputs: Outputs, classes: Sequence[int | str], per_class: int = 100, seed: int = 0
) -> Projection:
    """At most `per_class` examples, drawn without replacement, of each of three classes (positions
    or names), in their templates' plane. See `basis`."""
    features, weight = _layer(outputs)
    chosen = [position(outputs, k) for k in classes]
    plane = basis(weight, outputs.head_bias, chosen)
    draw, points = torch.Generator().manual_seed(seed), []
    for k in chosen:
        rows = (outputs.labels == k).nonzero()[:, 0]
        if not len(rows):
            raise LevelheadError(f"class {outputs.class_names[k]!r}: no examples; choose another")
        rows = rows[torch.randperm(len(rows), generator=draw)[:per_class]]
        points.append(plane.project(features[rows]).numpy())
    bias = 0.0 if outputs.head_bias is None else outputs.head_bias[chosen]
    a, b, c = (outputs.class_names[k] for k in chosen)
    templates = plane.project(weight[chosen], bias).numpy()
    return Projection((a, b, c), tuple(points), templates, outputs.split)


def plane_ratio(seen: Projection) -> float:
    """What the eye sees in the figure: tr Σ_W / tr Σ_B of the points drawn, in their plane."""
    means = np.stack([points.mean(0) for points in seen.points])
    within = np.mean([points.var(0).sum() for points in seen.points])
    return float(within / ((means - means.mean(0)) ** 2).sum(1).mean())


def limits(projections: Sequence[Projection]) -> tuple[tuple[float, float], tuple[float, float]]:
    """Ends of x and y that hold all points and templates; one side is at least 0.4 of the other."""
    corners = np.concatenate([xy for p in projections for xy in (*p.points, p.templates)])
    middle, half = (corners.min(0) + corners.max(0)) / 2, np.ptp(corners, axis=0) / 2
    half = np.maximum(1.1 * half, 0.44 * half.max())
    (left, bottom), (right, top) = (middle - half).tolist(), (middle + half).tolist()
    return (left, right), (bottom, top)


def triples(outputs: Outputs, k: int = 3) -> dict[str, tuple[int, int, int]]:
    """The first `k` of three choices of classes to look at, as positions, by name.

    Similar: the two classes most often taken for each other (shares of each, added) and the class
    most similar to both. Dissimilar: the least similar two and the least similar to both. Two
    similar and one different, as the poodles and the tench of Müller et al. 2019. Equal shares,
    such as none, are told apart by the cosine of the centred templates.
    """
    _, weight = _layer(outputs)
    count, n = outputs.classes, torch.bincount(outputs.labels, minlength=outputs.classes)
    there = (n > 0).nonzero()[:, 0]
    if len(there) < 3:
        raise LevelheadError(f"triples: {len(there)} classes have examples; needs at least 3")
    taken = torch.bincount(outputs.labels * count + outputs.predictions(), minlength=count**2)
    share = (taken.view(count, count) / n.clamp_min(1)[:, None])[there][:, there].double()
    unit = torch.nn.functional.normalize(_centred(weight.double()[there]))
    alike = share + share.T + 1e-6 * unit @ unit.T
    own = torch.eye(len(there), dtype=torch.bool)

    def pair(best: Tensor) -> list[int]:
        return list(divmod(int(best.masked_fill(own, -math.inf).argmax()), len(there)))

    def third(best: Tensor, two: list[int]) -> tuple[int, int, int]:
        both = best[two].sum(0)
        both[two] = -math.inf
        a, b, c = there[[*sorted(two), int(both.argmax())]].tolist()
        return a, b, c

    near, far = pair(alike), pair(-alike)
    metrics = {
        "similar": third(alike, near),
        "dissimilar": third(-alike, far),
        "two similar, one different": third(-alike, near),
    }
    return dict(list(metrics.items())[:k])


def geometry(
    outputs: Outputs, level: float = 0.95, resamples: int = 200, seed: int = 0
) -> dict[str, Any]:
    """The numbers of `MEASURES`, each with value, low and high, from features and head.

    Intervals are for the population of examples, given this network: examples are drawn anew within
    their class `resamples` times (with hundreds of classes fewer, at least 50), and the interval is
    value − bias ± z deviations of the values drawn (of the squares of angle, NC2 and NC3), cut at
    0. The bias matters: means of few examples lie farther apart than the classes do, so an interval
    may exclude `value`. Drawn class means enter exactly; in NC1 a drawn Σ_W enters to first order.
    NC4's interval is Wilson's at these class means. Classes with fewer than two examples are left
    out, and named. Float64, in pieces. Raises LevelheadError without features, head and 2 classes.
    """
    z = normal_quantile(level)
    features, weight = _layer(outputs)
    groups, kept, left_out = _groups(outputs)
    weight = weight.double()[kept]
    bias = torch.zeros(len(kept)) if outputs.head_bias is None else outputs.head_bias[kept]
    means = _means(features, groups)
    start = _centred(means)
    if not start.norm() > 1e-9 * means.norm():
        raise LevelheadError("features: all class means coincide, so no class is told from another")
    inverse = start.mT @ _pinv(start @ start.mT)  # Σ_B⁺ = K · inverse · inverseᵀ
    linear, scatter, wrong = _statistics(features, groups, means, weight, bias.double(), inverse)
    level_of = torch.stack([linear[rows].mean(0) for rows in groups])  # [K, 6]

    def measure(moved: Tensor, drawn: Tensor) -> Tensor:
        """Measures [.., 16] of class means moved by [.., K, D] and drawn `linear` [.., K, 6]."""
        centred, within, between = _spread(means, moved, drawn[..., 0])
        p = centred.mT @ _pinv(centred @ centred.mT)
        extra = (drawn - level_of)[..., 1].mean(-1) - (moved @ p).square().sum((-2, -1)) / len(kept)
        nc1 = ((scatter @ p) * p).sum((-2, -1)) + extra
        own, other, equal, norm = drawn[..., 2:].mean(-2).unbind(-1)
        templates = _centred(weight)
        unit, goal = (t / t.norm(dim=-1, keepdim=True) for t in (centred, templates))
        apart = (unit - goal).norm(dim=-1) / 2
        angle = torch.rad2deg(2 * torch.asin(apart.clamp_max(1))).mean(-1)
        one = torch.ones_like(within)  # what is of the head alone does not vary
        norm_w, norms = weight.norm(dim=1).mean() * one, centred.norm(dim=-1)
        norms_w, cosine_w = _variation(templates.norm(dim=1)), _cosines(templates)
        whole = [t / t.norm(dim=(-2, -1), keepdim=True) for t in (centred, templates)]
        cosine = _cosines(centred)
        return torch.stack(
            [
                within, between, within / between, own, other, equal, angle, norm, norm_w, nc1,
                _variation(norms), cosine.std(-1, correction=0),
                (cosine + 1 / (len(kept) - 1)).abs().mean(-1), norms_w * one,
                cosine_w.std(-1, correction=0) * one, (whole[0] - whole[1]).norm(dim=(-2, -1)),
            ], -1,
        )  # fmt: skip

    def columns(k: int, rows: Tensor) -> Tensor:
        return torch.cat([features[rows].double() - means[k], linear[rows]], 1)

    times = min(resamples, max(50, int(2e10 / max(len(kept), 1) ** 3)))
    width = features.shape[1]
    values = measure(torch.zeros_like(means), level_of)
    blocks = _resampled(groups, [columns], [width + _LINEAR], times, seed)
    drawn = torch.cat([measure(b[..., :width], b[..., width:]) for (b,) in blocks])
    entries: dict[str, Any] = {}
    for name, value, some in zip(MEASURES, values.tolist(), drawn.T, strict=False):
        entries[name] = _cell(value, some, z, "square" if name in _ROOTS else "")
    if len(kept) == 2:
        entries["equidistance"] = _none("with two classes there is one other template")
    n = sum(map(len, groups))
    entries["nc4"] = dict(
        zip(("value", "low", "high"), (wrong / n, *wilson(wrong, n, level)), strict=True)
    )
    return {
        "n": n, "classes": len(kept), "dimensions": width, "left_out": left_out,
        "split": outputs.split,
        "interval": {"level": level, "method": "bootstrap within classes", "resamples": times},
        "metrics": entries,
    }  # fmt: skip


def tightening(
    hard: Outputs, smoothed: Outputs, level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """How much tighter smoothing makes the clusters: tr Σ_W / tr Σ_B, over the hard network's.

    `ratio` below 1 means tighter. Examples are paired by id (those that both have; without ids by
    row) and drawn together, within classes; intervals are as in `geometry`, of the logarithm.
    Raises LevelheadError where examples or labels do not fit together.
    """
    z = normal_quantile(level)
    if hard.ids is not None and smoothed.ids is not None:
        place = {name: i for i, name in enumerate(smoothed.ids)}
        both = [(i, place[name]) for i, name in enumerate(hard.ids) if name in place]
        if not both:
            raise LevelheadError("tightening: no id is in both outputs; judge the same examples")
        hard, smoothed = hard.take([i for i, _ in both]), smoothed.take([j for _, j in both])
    if not torch.equal(hard.labels, smoothed.labels):
        raise LevelheadError("tightening: the labels differ; judge the same examples, in one order")
    layers = [_features(o) for o in (hard, smoothed)]
    groups, kept, left_out = _groups(hard)
    means = [_means(x, groups) for x in layers]

    def columns(x: Tensor, centre: Tensor) -> Callable[[int, Tensor], Tensor]:
        def piece(k: int, rows: Tensor) -> Tensor:
            rest = x[rows].double() - centre[k]
            return torch.cat([rest, rest.square().sum(1, keepdim=True)], 1)

        return piece

    def logs(centre: Tensor, drawn: Tensor) -> Tensor:
        _, within, between = _spread(centre, drawn[..., :-1], drawn[..., -1])
        return (within / between).log()

    pieces = [columns(x, m) for x, m in zip(layers, means, strict=True)]
    widths = [x.shape[1] + 1 for x in layers]
    exact = [
        torch.stack([_sum(piece, k, rows) / len(rows) for k, rows in enumerate(groups)])
        for piece in pieces
    ]
    # Rows: what was seen, then what was drawn; columns: hard, smoothed.
    distances = torch.cat(
        [
            torch.stack([logs(*pair) for pair in zip(means, block, strict=True)], -1).view(-1, 2)
            for block in chain([exact], _resampled(groups, pieces, widths, resamples, seed))
        ]
    )
    columns_of = {
        "hard": distances[:, 0],
        "smoothed": distances[:, 1],
        "ratio": distances[:, 1] - distances[:, 0],
    }
    return {
        "n": sum(map(len, groups)), "classes": len(kept), "left_out": left_out,
        "interval": {
            "level": level, "method": "paired bootstrap within classes", "resamples": resamples,
        },
        **{name: _cell(float(c[0]), c[1:], z, "log") for name, c in columns_of.items()},
    }  # fmt: skip


def _features(outputs: Outputs) -> Tensor:
    if outputs.features is None:
        raise LevelheadError(
            "features: none in these outputs; keep them when predicting (the head's input, [N, D])"
        )
    row = first(~outputs.features.isfinite().all(1))
    if row is not None:
        raise LevelheadError(f"row {row}: a feature is not a finite number; fix or remove it")
    return outputs.features


def _layer(outputs: Outputs) -> tuple[Tensor, Tensor]:
    features, weight = _features(outputs), outputs.head_weight
    if weight is None:
        raise LevelheadError("head_weight: none in these outputs; give the head's weight [K, D]")
    if weight.shape[1] != features.shape[1]:
        raise LevelheadError(
            f"head_weight: {weight.shape[1]} columns for features of {features.shape[1]}; "
            "give the features that this head multiplies"
        )
    return features, weight


def _groups(outputs: Outputs) -> tuple[list[Tensor], list[int], list[str]]:
    """Rows of each class with at least two; these classes; names of the others."""
    count = torch.bincount(outputs.labels, minlength=outputs.classes)
    rows = outputs.labels.argsort(stable=True).split(count.tolist())
    kept = [k for k, n in enumerate(count.tolist()) if n > 1]
    if len(kept) < 2:
        raise LevelheadError(
            f"geometry: {len(kept)} of {outputs.classes} classes have two examples or more; "
            "needs at least 2"
        )
    left = [name for k, name in enumerate(outputs.class_names) if count[k] < 2]
    return [rows[k] for k in kept], kept, left


def _sum(
    columns: Callable[[int, Tensor], Tensor], k: int, rows: Tensor, size: int = 4096
) -> Tensor:
    return torch.stack([columns(k, some).sum(0) for some in rows.split(size)]).sum(0)


def _means(features: Tensor, groups: list[Tensor]) -> Tensor:
    """Class means, float64 [K, D]."""
    size = max(1, _PIECE // features.shape[1])
    sums = [_sum(lambda _, some: features[some].double(), 0, rows, size) for rows in groups]
    return torch.stack([s / len(rows) for s, rows in zip(sums, groups, strict=True)])


def _statistics(
    features: Tensor, groups: list[Tensor], means: Tensor, weight: Tensor, bias: Tensor,
    inverse: Tensor,
) -> tuple[Tensor, Tensor, int]:  # fmt: skip
    """By example ‖x − μ_y‖², the same in Σ_B⁺/K, ‖x − w_y‖, mean and variation of the other
    distances, ‖x‖; then Σ_W [D, D] and how often nearest mean and head disagree."""
    width, count = features.shape[1], len(groups)
    linear = torch.zeros(len(features), _LINEAR, dtype=torch.float64)
    scatter = torch.zeros(width, width, dtype=torch.float64)
    wrong = 0
    for k, rows in enumerate(groups):
        others = torch.arange(count) != k
        for some in rows.split(max(1, _PIECE // max(width, count))):
            x = features[some].double()
            rest = x - means[k]
            scatter.addmm_(rest.T, rest, alpha=1 / (len(rows) * count))
            square, scores = x.square().sum(1), x @ weight.T
            # ‖x − w‖² = xᵀx − 2 xᵀw + wᵀw, as in the paper.
            away = (square[:, None] - 2 * scores + weight.square().sum(1)).clamp_min(0).sqrt()
            nearer = (means.square().sum(1) - 2 * x @ means.T).argmin(1)
            wrong += int((nearer != (scores + bias).argmax(1)).sum())
            rest_of = away[:, others]
            linear[some] = torch.stack(
                [rest.square().sum(1), (rest @ inverse).square().sum(1), away[:, k],
                 rest_of.mean(1), _variation(rest_of), square.sqrt()], 1,
            )  # fmt: skip
    return linear, scatter, wrong


def _resampled(
    groups: list[Tensor], columns: Sequence[Callable[[int, Tensor], Tensor]],
    widths: Sequence[int], resamples: int, seed: int,
) -> Iterator[list[Tensor]]:  # fmt: skip
    """Class means [r, K, C] of each set of per-example columns under the same bootstrap weights."""
    if resamples < 2:
        raise LevelheadError(f"resamples {resamples}: must be 2 or more, for example 200")
    draw = torch.Generator().manual_seed(seed)
    most, count = max(map(len, groups)), len(groups)
    block = max(1, (1 << 22) // max(most, count * max(count, *widths)))
    for start in range(0, resamples, block):
        r = min(block, resamples - start)
        means = [torch.zeros(r, count, width, dtype=torch.float64) for width in widths]
        for k, rows in enumerate(groups):
            n = len(rows)
            drawn = torch.randint(n, (r, n), generator=draw) + torch.arange(r)[:, None] * n
            times = torch.bincount(drawn.flatten(), minlength=r * n).view(r, n).double() / n
            for into, piece, width in zip(means, columns, widths, strict=True):
                size = max(1, _PIECE // width)
                for part, some in zip(times.split(size, 1), rows.split(size), strict=True):
                    into[:, k] += part @ piece(k, some)
        yield means


def _centred(points: Tensor) -> Tensor:
    return points - points.mean(-2, keepdim=True)


def _spread(means: Tensor, moved: Tensor, square: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Centred class means, tr Σ_W and tr Σ_B where means moved and `square` is mean ‖x − μ_k‖²."""
    centred = _centred(means + moved)
    within = square.mean(-1) - moved.square().sum(-1).mean(-1)
    return centred, within, centred.square().sum(-1).mean(-1)


def _pinv(gram: Tensor) -> Tensor:
    """Pseudo-inverse of symmetric [.., K, K]; eigenvalues below 1e-12 of the largest count as 0."""
    values, vectors = torch.linalg.eigh(gram)
    kept = values > 1e-12 * values[..., -1:]
    inverse: Tensor = (vectors * torch.where(kept, 1 / values, 0.0)[..., None, :]) @ vectors.mT
    return inverse


def _cosines(points: Tensor) -> Tensor:
    """Cosines of [.., K, D] between different ones, [.., K (K − 1)]."""
    unit: Tensor = points / points.norm(dim=-1, keepdim=True)
    cosines: Tensor = unit @ unit.mT
    return cosines[..., ~torch.eye(points.shape[-2], dtype=torch.bool)]


def _variation(values: Tensor) -> Tensor:
    """Population deviation / mean over the last axis."""
    variation: Tensor = values.std(-1, correction=0) / values.mean(-1)
    return variation


def _none(reason: str) -> dict[str, Any]:
    return {"value": None, "low": None, "high": None, "reason": reason}


def _cell(value: float, drawn: Tensor, z: float, scale: str = "") -> dict[str, Any]:
    """value − bias ± z deviations, not below 0; of logarithms, or squares, and then back."""
    drawn = drawn[drawn.isfinite()]
    if not math.isfinite(value) or len(drawn) < 2:
        return _none("templates coincide, or each class is one point")
    low = high = value
    if float((drawn - value).abs().max()) > 1e-9 * abs(value):  # else nothing but rounding varies
        seen, drawn = (value**2, drawn.square()) if scale == "square" else (value, drawn)
        centre, half = 2 * seen - float(drawn.mean()), z * float(drawn.std())
        low, high = centre - half, centre + half
    if scale == "log":
        value, low, high = (math.exp(v) for v in (value, low, high))
    elif scale == "square" and low != high:
        low, high = (math.sqrt(max(0.0, v)) for v in (low, high))
    return {"value": value, "low": max(0.0, low), "high": max(0.0, high)}
