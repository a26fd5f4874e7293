"""A pretrained body that stands still: its features once, and the head that fits them best.

The head is multinomial logistic regression with an L2 penalty, solved to convergence; the
penalty with the best NLL on folds of the training split wins.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from levelhead.data.batches import seeded
from levelhead.data.cache import VERSION
from levelhead.data.entries import Array, Examples
from levelhead.data.views import Views
from levelhead.errors import LevelheadError
from levelhead.files import cache_folder, write_cache
from levelhead.machine import whole_float32
from levelhead.models import Network
from levelhead.recipe import Recipe
from levelhead.targets import Targets
from levelhead.training.checkpoint import checksum
from levelhead.training.objective import Objective

PENALTIES = tuple(10.0 ** (p / 2) for p in range(-10, 1))
FOLDS = 5
AT_ONCE = 64
"""Images whose features are made at once."""


@dataclass(frozen=True)
class Trial:
    """One penalty tried: a row of history.csv. NLL and accuracy are plain, on held-out folds."""

    penalty: float
    fold_nll: float
    fold_accuracy: float


def frozen_features(
    network: Network,
    splits: Mapping[str, Examples],
    key: str,
    device: torch.device,
    views: Views,
    progress: Callable[[int, int], None] | None = None,
    *,
    cached: bool = True,
) -> dict[str, Tensor]:
    """Features [N,D] of each split, from the cache if an earlier run made them.

    They are made and kept in the order of the images' digests, so that other splits of the same
    images need no new ones. key: whatever decides them besides images and weights (model, size,
    resize). `progress` is called only where features are made.
    """
    from safetensors.torch import save

    digests = np.concatenate([part.digests for part in splits.values()])
    order = np.argsort(digests, kind="stable")
    stamp = hashlib.sha256(repr((key, views.key)).encode())
    for tensor in network.body.state_dict().values():
        stamp.update(tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    stamp.update(digests[order].tobytes())
    path = cache_folder() / "features" / f"{stamp.hexdigest()[:32]}.safetensors"
    features = _kept(path, len(order), network.head.in_features) if cached else None
    if features is None:
        features = _made(network, list(splits.values()), order, device, views, progress)
        if cached:  # else it is made again
            tensors = {"features": features}
            write_cache(path, save(tensors, {"checksum": checksum(tensors)}))
    place = torch.from_numpy(np.argsort(order, kind="stable"))
    pieces = features[place].split([len(part) for part in splits.values()])
    return dict(zip(splits, pieces, strict=True))


def features_key(recipe: Recipe) -> str:
    """What decides the features of a recipe's body besides images and weights.

    With the version of how images are decoded: features kept by an earlier one, which resized
    otherwise, differ by more than rounding (0.06 in a probability was seen).
    """
    return f"{recipe.model} {recipe.image_size} {recipe.resize} {VERSION} float32"


@torch.no_grad()
def _made(
    network: Network,
    parts: Sequence[Examples],
    order: Array,
    device: torch.device,
    views: Views,
    progress: Callable[[int, int], None] | None,
) -> Tensor:
    """Features of the images of all parts, one part after the other, in an order of positions."""
    fast = fuse(network, parts[0].images.shape[1]).place(device)
    ends = np.cumsum([len(part) for part in parts])
    rows: list[Tensor] = []
    for start in range(0, len(order), AT_ONCE):
        index = order[start : start + AT_ONCE]
        of = np.searchsorted(ends, index, side="right")
        pixels = np.stack(
            [parts[p].images[i - (ends[p] - len(parts[p]))] for p, i in zip(of, index, strict=True)]
        )
        images = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2)
        with whole_float32():
            by_view = [fast.features(view) for view in views(images)]
        rows.append(torch.stack(by_view).mean(0).cpu())
        if progress is not None:
            progress(start + len(index), len(order))
    return torch.cat(rows)


def _kept(path: Path, n: int, width: int) -> Tensor | None:
    """Features that an earlier run kept; None if they are not there, damaged or others'."""
    from safetensors import safe_open

    try:
        with safe_open(path, "pt") as file:
            features: Tensor = file.get_tensor("features")
            stored = (file.metadata() or {}).get("checksum")
    except Exception:  # a cache is only a cache
        return None
    right = tuple(features.shape) == (n, width) and features.dtype == torch.float32
    return features if right and stored == checksum({"features": features}) else None


def fuse(network: Network, size: int) -> Network:
    """A copy in evaluation mode with every batch norm folded into the convolution before it.

    Layers are paired by the order of their definition, which need not be that of their use: if
    the copy's features of random images differ, the plain copy is returned.
    """
    import copy

    from torch.nn.utils.fusion import fuse_conv_bn_eval

    plain, whole = copy.deepcopy(network).eval(), copy.deepcopy(network).eval()
    for parent in list(whole.modules()):
        children = list(parent.named_children())
        for (name, conv), (after, norm) in pairwise(children):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, name, fuse_conv_bn_eval(conv, norm))
                # timm folds the activation into its norm layer; keep it.
                setattr(parent, after, getattr(norm, "act", nn.Identity()))
    probe = torch.rand((2, network.mean.shape[1], size, size), generator=seeded(0)) * 255
    probe = probe.to(network.mean.device)
    with torch.no_grad():
        before, after_fusion = plain.features(probe), whole.features(probe)
    close = (before - after_fusion).norm() <= 1e-3 * before.norm()
    return whole if close else plain


def fit_head(
    head: nn.Linear,
    features: Tensor,
    labels: Tensor,
    objective: Objective,
    penalty: float | None = None,
    seed: int = 0,
) -> list[Trial]:
    """Solve for the head in place; returns the penalties tried on folds (none if one was given).

    features float32 [N,D], labels int64 [N]; `objective` makes targets and losses, as in
    `loop.fit`. Features are standardised for the penalty's sake, and the scaling is folded into
    the weights afterwards. Raises LevelheadError as the loss does, and for features that are not
    finite.
    """
    mean, std = features.mean(0), features.std(0).clamp_min(1e-6)
    x = (features - mean) / std
    if not bool(torch.isfinite(x).all()):
        raise LevelheadError(
            "the body's features are not finite: its weights are damaged, or meant for other "
            "images; take others"
        )
    classes = head.out_features

    def solve(here: Tensor, penalty: float, first: Tensor | None) -> Tensor:
        targets = objective.targets(labels[here], here)
        return _solve(x[here], targets, objective, classes, penalty, first)

    trials: list[Trial] = []
    everything = torch.arange(len(labels))
    if penalty is None:
        fold = _folds(labels, seed)
        places = [
            (torch.nonzero(fold != k)[:, 0], torch.nonzero(fold == k)[:, 0]) for k in range(FOLDS)
        ]
        solutions: list[Tensor | None] = [None] * FOLDS
        # From strong to weak: each solution is a good start for the next. Weak ones take longest:
        # once two more have made it worse, the best is behind.
        for tried in reversed(PENALTIES):
            scores = torch.zeros(len(labels), classes)
            for k, (inside, outside) in enumerate(places):
                solutions[k] = solution = solve(inside, tried, solutions[k])
                scores[outside] = _logits(x[outside], solution)
            nll = float(nn.functional.cross_entropy(scores, labels))
            hits = float((scores.argmax(1) == labels).float().mean())
            trials.insert(0, Trial(tried, nll, hits))
            if (
                len(trials) > 2
                and min(trials[:2], key=_nll).fold_nll > min(trials, key=_nll).fold_nll
            ):
                break
        penalty = min(trials, key=_nll).penalty
    solution = solve(everything, penalty, None)
    with torch.no_grad():
        weight = solution[:, :-1] / std
        head.weight.copy_(weight)
        head.bias.copy_(solution[:, -1] - weight @ mean)
    return trials


def _nll(trial: Trial) -> float:
    return trial.fold_nll


def _solve(
    x: Tensor,
    targets: Targets,
    objective: Objective,
    classes: int,
    penalty: float,
    first: Tensor | None,
) -> Tensor:
    """argmin over [K,D+1] of mean loss + penalty/2 · ‖weights without bias‖², by L-BFGS."""
    start = torch.zeros(classes, x.shape[1] + 1) if first is None else first.clone()
    solution = start.requires_grad_()
    solver = torch.optim.LBFGS(
        [solution],
        max_iter=200,
        history_size=10,
        tolerance_grad=1e-5,
        tolerance_change=1e-7,
        line_search_fn="strong_wolfe",
    )

    def value() -> Any:
        solver.zero_grad()
        losses = objective.label_losses(_logits(x, solution), targets)
        total = losses.mean() + penalty / 2 * solution[:, :-1].square().sum()
        total.backward()
        return total

    solver.step(value)
    return solution.detach()


def _logits(x: Tensor, solution: Tensor) -> Tensor:
    return torch.addmm(solution[:, -1], x, solution[:, :-1].T)


def _folds(labels: Tensor, seed: int) -> Tensor:
    """Fold of each example, 0 .. FOLDS-1, stratified: classes are dealt out like cards."""
    order = torch.randperm(len(labels), generator=seeded(seed, -3))
    by_class = order[torch.argsort(labels[order], stable=True)]
    fold = torch.empty(len(labels), dtype=torch.int64)
    fold[by_class] = torch.arange(len(labels)) % FOLDS
    return fold
