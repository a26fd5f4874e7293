"""Geometry of the penultimate layer: the formulas, their invariances and their intervals."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from levelhead.errors import LevelheadError
from levelhead.figures import projection
from levelhead.figures.canvas import to_svg
from levelhead.outputs import Outputs
from levelhead.representation.geometry import (
    MEASURES,
    basis,
    geometry,
    limits,
    plane_ratio,
    project,
    tightening,
    triples,
)


def network(
    n: int = 200, classes: int = 4, width: int = 7, noise: float = 1.0, seed: int = 0, **more: Any
) -> Outputs:
    """Features around random class means, and a head that fits them loosely; uneven classes."""
    draw = np.random.default_rng(seed)
    means = 2 * np.random.default_rng(99).normal(size=(classes, width))
    labels = np.concatenate([np.arange(classes).repeat(3), draw.integers(0, classes, n)])[:n]
    x = (means[labels] + noise * draw.normal(size=(n, width))).astype(np.float32)
    w = (means + 0.5 * draw.normal(size=means.shape)).astype(np.float32)
    b = draw.normal(size=classes).astype(np.float32)
    more = {"features": x, "head_weight": w, "head_bias": b} | more
    return Outputs.from_logits(x @ w.T + b, labels, **more)


def literally(outputs: Outputs, weights: np.ndarray | None = None) -> dict[str, float]:
    """Every measure from its formula, with loops; examples counted as often as `weights` says."""
    assert outputs.features is not None
    assert outputs.head_weight is not None
    assert outputs.head_bias is not None
    x, y = outputs.features.double().numpy(), outputs.labels.numpy()
    w, b = outputs.head_weight.double().numpy(), outputs.head_bias.double().numpy()
    if weights is not None:
        index = np.repeat(np.arange(len(x)), weights.astype(int))
        x, y = x[index], y[index]
    k = len(w)
    mu = np.stack([x[y == c].mean(0) for c in range(k)])
    m, v = mu - mu.mean(0), w - w.mean(0)
    sw = sum(np.cov(x[y == c].T, bias=True) for c in range(k)) / k
    sb = sum(np.outer(m[c], m[c]) for c in range(k)) / k
    away = np.array([[math.dist(xi, wc) for wc in w] for xi in x])
    others = [np.delete(a, c) for a, c in zip(away, y, strict=True)]

    def by_class(values: Any) -> float:
        return float(np.mean([np.asarray(values)[y == c].mean() for c in range(k)]))

    def cosines(p: np.ndarray) -> np.ndarray:
        return np.array(
            [
                p[a] @ p[c] / np.linalg.norm(p[a]) / np.linalg.norm(p[c])
                for a in range(k) for c in range(k) if a != c
            ]
        )  # fmt: skip

    def variation(p: np.ndarray) -> float:
        norms = [np.linalg.norm(r) for r in p]
        return float(np.std(norms) / np.mean(norms))

    near = np.array([[math.dist(xi, mc) for mc in mu] for xi in x]).argmin(1)
    cosine = [p @ q / np.linalg.norm(p) / np.linalg.norm(q) for p, q in zip(m, v, strict=True)]
    return {
        "within": np.trace(sw), "between": np.trace(sb), "ratio": np.trace(sw) / np.trace(sb),
        "own_distance": by_class([a[c] for a, c in zip(away, y, strict=True)]),
        "other_distance": by_class([o.mean() for o in others]),
        "equidistance": by_class([o.std() / o.mean() for o in others]),
        "angle": np.degrees(np.arccos(cosine)).mean(),
        "feature_norm": by_class(np.linalg.norm(x, axis=1)),
        "template_norm": np.linalg.norm(w, axis=1).mean(),
        "nc1": np.trace(sw @ np.linalg.pinv(sb, rcond=1e-10)) / k,
        "nc2_norms": variation(m), "nc2_angles": cosines(m).std(),
        "nc2_maximal": np.abs(cosines(m) + 1 / (k - 1)).mean(),
        "nc2_template_norms": variation(v), "nc2_template_angles": cosines(v).std(),
        "nc3": np.linalg.norm(v / np.linalg.norm(v) - m / np.linalg.norm(m)),
        "nc4": float((near != (x @ w.T + b).argmax(1)).mean()),
    }  # fmt: skip


def values(found: dict[str, Any]) -> dict[str, float]:
    """The numbers without their intervals."""
    return {name: cell["value"] for name, cell in found["metrics"].items()}


@pytest.mark.parametrize(("classes", "width"), [(4, 7), (6, 3), (3, 2)])
def test_measures_are_their_formulas(classes: int, width: int) -> None:
    """A number would not be what MEASURES says; with more classes than features NC1 most of all."""
    made = network(classes=classes, width=width)
    found = geometry(made, resamples=10)
    assert list(found["metrics"]) == list(MEASURES)
    assert values(found) == pytest.approx(literally(made), rel=1e-9)


def test_a_collapsed_simplex_is_collapsed() -> None:
    """Neural collapse would never be reported as complete, where it is."""
    k = 5
    simplex = np.eye(k) - 1 / k
    labels = np.arange(50) % k
    made = Outputs.from_logits(
        3 * simplex[labels], labels, features=3 * simplex[labels], head_weight=simplex
    )
    found = values(geometry(made, resamples=5))
    for name in ("within", "ratio", "nc1", "nc2_norms", "nc2_angles", "nc2_maximal", "nc3", "nc4"):
        assert found[name] == pytest.approx(0, abs=1e-6), name
    assert found["angle"] == pytest.approx(0, abs=1e-5)
    assert found["equidistance"] == pytest.approx(0, abs=1e-6)
    assert found["feature_norm"] == pytest.approx(3 * math.sqrt(1 - 1 / k), rel=1e-6)


def test_rotations_change_nothing() -> None:
    """A measure would depend on how the network happens to number its features."""
    made = network()
    turn = torch.linalg.qr(torch.from_numpy(np.random.default_rng(1).normal(size=(7, 7)))).Q
    assert made.features is not None
    assert made.head_weight is not None
    x, w = (t.double() @ turn for t in (made.features, made.head_weight))
    turned = network(features=x, head_weight=w)
    a, b = geometry(made, resamples=50)["metrics"], geometry(turned, resamples=50)["metrics"]
    for name, cell in a.items():
        assert b[name] == pytest.approx(cell, rel=1e-4, abs=1e-5), name
    one, two = (project(o, [2, 0, 3], 10) for o in (made, turned))
    for p, q in zip((*one.points, one.templates), (*two.points, two.templates), strict=True):
        np.testing.assert_allclose(p, q, atol=1e-4)


def test_the_order_of_classes_changes_nothing() -> None:
    """Sorting class names would change what is said of a network."""
    made, order = network(), torch.tensor([2, 0, 3, 1])
    assert made.head_weight is not None
    assert made.head_bias is not None
    moved = Outputs.from_logits(
        made.scores[:, order], order.argsort()[made.labels], features=made.features,
        head_weight=made.head_weight[order], head_bias=made.head_bias[order],
    )  # fmt: skip
    a, b = geometry(made, resamples=10), geometry(moved, resamples=10)
    assert values(a) == pytest.approx(values(b), rel=1e-10)


def test_the_drawn_values_are_those_of_drawn_examples() -> None:
    """Sufficient statistics would not stand for the examples: against a slow bootstrap of them."""
    made, draw = network(160), np.random.default_rng(5)
    rows, seen = [np.flatnonzero(made.labels.numpy() == c) for c in range(4)], []
    for _ in range(300):
        weights = np.zeros(160)
        for r in rows:
            weights[r] = draw.multinomial(len(r), np.full(len(r), 1 / len(r)))
        seen.append(literally(made, weights))
    found = geometry(made, resamples=4000)["metrics"]
    for name in ("within", "between", "ratio", "own_distance", "other_distance", "equidistance",
                 "feature_norm", "nc1", "nc3", "angle", "nc2_norms", "nc2_angles"):  # fmt: skip
        square = name in ("nc3", "angle", "nc2_norms", "nc2_angles")
        power = 2 if square else 1
        slow = np.array([one[name] ** power for one in seen])
        low, high = (found[name][end] ** power for end in ("low", "high"))
        centre = 2 * found[name]["value"] ** power - slow.mean()
        assert (high - low) / 2 == pytest.approx(1.96 * slow.std(), rel=0.2), name
        assert (high + low) / 2 == pytest.approx(centre, abs=0.3 * slow.std()), name


def test_intervals_hold_the_population() -> None:
    """Means of few examples lie too far apart: percentiles would leave the truth out each time."""
    draw, held = np.random.default_rng(3), dict.fromkeys(("between", "ratio", "nc1", "nc3"), 0)
    k, d, n, runs = 4, 16, 30, 60
    means = draw.normal(size=(k, d))
    w = means - means.mean(0)
    spectrum = np.linalg.svd(w, compute_uv=False)[:-1] ** 2 / k
    truth = {"between": (w**2).sum() / k, "nc1": (1 / spectrum).sum() / k, "nc3": 0.0}
    truth["ratio"] = d / truth["between"]
    labels = np.arange(k).repeat(n)
    for _ in range(runs):
        x = means[labels] + draw.normal(size=(k * n, d))
        made = Outputs.from_logits(x @ w.T, labels, features=x, head_weight=w)
        found = geometry(made, resamples=100)["metrics"]
        for name in held:
            held[name] += found[name]["low"] - 1e-6 <= truth[name] <= found[name]["high"]
    assert min(held.values()) >= 0.83 * runs, held


def test_classes_without_examples_are_left_out_and_named() -> None:
    """A class that the test set lacks would make every number null, in silence or not."""
    made = network()
    some = made.take([i for i, y in enumerate(made.labels.tolist()) if y != 2])
    found = geometry(some, resamples=5)
    assert found["left_out"] == ["2"]
    assert found["classes"] == 3
    assert all(math.isfinite(value) for value in values(found).values())
    two = geometry(network(classes=2), resamples=5)["metrics"]
    assert two["equidistance"]["value"] is None
    assert two["equidistance"]["reason"]


def test_tightening_pairs_by_id() -> None:
    """Pairing by row would compare different examples once one file is sorted otherwise."""
    ids = [f"{i}.png" for i in range(300)]
    hard, smooth = network(300, ids=ids), network(300, noise=0.5, ids=ids)
    straight = tightening(hard, smooth, resamples=100)
    order = np.random.default_rng(0).permutation(300)
    assert tightening(hard, smooth.take(order), resamples=100) == straight
    for name, one in (("hard", hard), ("smoothed", smooth)):
        assert straight[name]["value"] == pytest.approx(literally(one)["ratio"])
    ratio = straight["ratio"]
    assert ratio["value"] == pytest.approx(
        straight["smoothed"]["value"] / straight["hard"]["value"]
    )
    # The same draws of noise, halved: what is drawn says nearly the same of both.
    assert ratio["low"] < 0.25 < ratio["high"] < 0.35
    alone = straight["hard"]["high"] / straight["hard"]["low"]
    assert ratio["high"] / ratio["low"] < alone
    assert tightening(hard, hard.take(order), resamples=20)["ratio"] == {
        "value": pytest.approx(1), "low": pytest.approx(1), "high": pytest.approx(1),
    }  # fmt: skip
    assert tightening(hard, smooth.take(order[:200]), resamples=5)["n"] == 200


def test_the_plane_holds_its_templates() -> None:
    """Distances in the image would not be those between templates in R^(D+1)."""
    made = network(width=9)
    assert made.head_weight is not None
    assert made.head_bias is not None
    plane = basis(made.head_weight, made.head_bias, [3, 1, 0])
    torch.testing.assert_close(plane.axes @ plane.axes.T, torch.eye(2).double())
    points = torch.cat([made.head_weight, made.head_bias[:, None]], 1)[[3, 1, 0]].double()
    seen = project(made, ["3", "1", "0"], per_class=6)
    flat = torch.from_numpy(seen.templates)
    torch.testing.assert_close(torch.cdist(flat, flat), torch.cdist(points, points))
    torch.testing.assert_close(plane.origin + flat @ plane.axes, points)
    assert [len(xy) for xy in seen.points] == [6, 6, 6]
    # Literally: the coordinates of the nearest point of the plane to [x, 1].
    assert made.features is not None
    x = torch.cat([made.features[:1].double(), torch.ones(1, 1).double()], 1)[0] - plane.origin
    nearest = torch.linalg.lstsq(plane.axes.T, x[:, None]).solution[:, 0]
    torch.testing.assert_close(plane.project(made.features[:1])[0], nearest)
    (left, right), (bottom, top) = limits([seen])
    every = np.concatenate([*seen.points, seen.templates])
    assert left < every[:, 0].min() < every[:, 0].max() < right
    assert bottom < every[:, 1].min() < every[:, 1].max() < top


def test_triples_find_the_confused_and_the_far() -> None:
    """The images would show classes that nobody asks about."""
    w = np.array([[5, 0], [5, 0.5], [5, -0.9], [-5, 0], [-4.5, 3], [0.0, 9.0]])
    labels = np.arange(60) % 6
    labels_wrong = labels.copy()
    labels_wrong[:12] = [1, 0, 2, 3, 4, 5] * 2  # 0 and 1 taken for each other
    made = Outputs.from_logits(
        9 * np.eye(6)[labels_wrong], labels, features=w[labels], head_weight=w
    )
    found = triples(made)
    assert found["similar"] == (0, 1, 2)
    assert found["two similar, one different"] == (0, 1, 4)
    assert found["dissimilar"] == (1, 4, 5)  # 1 and 4 opposite; 5 aside from both
    assert list(triples(made, 1)) == ["similar"]


def test_what_cannot_be_used_is_named() -> None:
    """A stranger's file would end in a traceback."""
    made = network()
    bare = Outputs.from_logits(made.scores, made.labels)
    line = [[0.0, 0], [1, 1], [2, 2]]
    mistakes: list[tuple[str, Any]] = [
        ("features: none", lambda: geometry(bare)),
        ("features: none", lambda: tightening(bare, made)),
        ("head_weight: none", lambda: geometry(network(head_weight=None))),
        ("head_weight: 5 columns", lambda: geometry(network(head_weight=np.ones((4, 5))))),
        ("lie on a line", lambda: basis(torch.tensor(line), None, [0, 1, 2])),
        ("three different", lambda: basis(torch.tensor(line), None, [0, 1, 1])),
        ("class 9: must", lambda: project(made, [0, 1, 9])),
        ("class 'cat'", lambda: project(made, ["cat", 1, 2])),
        ("no examples", lambda: project(made.take(made.labels.ne(1).nonzero()[:, 0]), [0, 1, 2])),
        ("labels differ", lambda: tightening(made, network(seed=1))),
        ("row 0: a feature", lambda: geometry(network(features=np.full((200, 7), np.nan)))),
        ("means coincide", lambda: geometry(network(features=np.full((200, 7), 0.1)))),
        ("resamples 1", lambda: geometry(made, resamples=1)),
        ("needs at least 3", lambda: triples(network(classes=2))),
    ]
    for text, call in mistakes:
        with pytest.raises(LevelheadError, match=text):
            call()


def test_columns_share_their_axes_and_say_how_many() -> None:
    """Tight clusters would look as broad as loose ones."""
    seen = {f"noise {s}": project(network(noise=s), [0, 1, 2], 20) for s in (0.2, 2.0)}
    panels = projection.data(seen)
    assert panels[0].x == panels[1].x
    assert panels[0].y == panels[1].y
    assert "n = 20" in panels[0].label
    apart = projection.data(seen, shared=False)
    assert apart[0].x != apart[1].x
    svg = to_svg(panels[0], projection.draw, "p")
    assert "template of 1" in svg
    assert len(svg) < 150_000


def test_the_spread_in_the_plane_is_that_of_the_points_drawn():
    """The number beside the image would be of another image."""
    seen = project(network(), (0, 1, 2), per_class=30)
    centre = [sum(p[:, i].mean() for p in seen.points) / 3 for i in range(2)]
    within = between = 0.0
    for points in seen.points:
        mean = points.mean(0)
        within += sum(((p - mean) ** 2).sum() for p in points) / len(points) / 3
        between += ((mean - centre) ** 2).sum() / 3
    assert plane_ratio(seen) == pytest.approx(within / between)
    assert plane_ratio(project(network(noise=0.1), (0, 1, 2))) < plane_ratio(seen)
