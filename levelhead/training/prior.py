"""What balancing does to probabilities, and how it is undone: a shift of each class's logit."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from levelhead.errors import LevelheadError
from levelhead.models import Network
from levelhead.recipe import Recipe
from levelhead.text import isolated


def balanced_weights(labels: Tensor, classes: int) -> Tensor:
    """N / (K · N_k), float32 [K], so that the mean weight of the examples is one.

    A class without examples (a piece of words that training never meets) weighs nothing: smoothing
    gives it a share, of which infinitely much would be no number.
    """
    counts = torch.bincount(labels, minlength=classes)
    weights = len(labels) / (classes * counts.clamp_min(1).float())
    return torch.where(counts > 0, weights, 0)


def balancing(recipe: Recipe) -> tuple[str, ...]:
    """The flags that make classes count alike."""
    flags = {
        "--class-weights balanced": recipe.class_weights == "balanced",
        "--sampler balanced": recipe.sampler == "balanced",
    }
    return tuple(flag for flag, used in flags.items() if used)


def correction(recipe: Recipe, labels: Tensor, classes: int) -> Tensor:
    """What to add to each class's logit so that probabilities are those of the training split.

    A network that sees class k w_k times as often, or its losses weighed so, learns
    p(k|x) w_k / Σ_j p(j|x) w_j; −log w_k takes it back (Saerens et al. 2002, equation 2.4; Menon
    et al. 2021, section 4.1). labels int64 [N] -> float32 [K].
    """
    return -len(balancing(recipe)) * balanced_weights(labels, classes).log()


@torch.no_grad()
def correct(network: Network, recipe: Recipe, labels: Tensor) -> None:
    """Put the correction into the head's bias, for every answer to come."""
    head = network.head
    assert head.bias is not None
    head.bias.add_(correction(recipe, labels, head.out_features).to(head.bias))


def refuse_without_bias(network: Network, recipe: Recipe) -> None:
    """Raise LevelheadError where the head has no bias to correct."""
    if recipe.prior_correction and network.head.bias is None:
        raise LevelheadError(
            f"--prior-correction --model {recipe.model}: its head has no bias to correct; take "
            "another --model, or leave it out and choose --method bias_temperature of levelhead "
            "calibrate"
        )


NEARLY_ALIKE = 1.5
"""Up to this ratio of the commonest class to the rarest, balancing changes little."""


def words(recipe: Recipe, labels: Tensor, class_names: Sequence[str]) -> str | None:
    """What balanced classes do to the probabilities of this run; None without them.

    labels int64 [N]: those that are trained on.
    """
    flags = balancing(recipe)
    if not flags:
        return None
    counts = torch.bincount(labels, minlength=len(class_names))
    rare, common = int(counts.argmin()), int(counts.argmax())
    both = " and ".join(flags)
    counted = (
        f"{both}: in training {isolated(class_names[rare])} ({int(counts[rare]):,} images) counted "
        f"as much as {isolated(class_names[common])} ({int(counts[common]):,})"
    )
    if counts[common] < NEARLY_ALIKE * counts[rare]:
        return f"{counted}: they are nearly as common, so that this changes little."
    if recipe.prior_correction:
        return (
            f"{counted}; --prior-correction gave each class its share of the images back, so that "
            "probabilities are those of images as they come."
        )
    return (
        f"{counted}, so rare classes are found more often, and their probability is overstated "
        "(that of common ones understated) for images that come as these do. A temperature cannot "
        "mend that; --prior-correction does, or the calibrator bias_temperature."
    )
