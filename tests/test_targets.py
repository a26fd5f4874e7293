"""Targets and losses: one meaning of smoothing, whichever way it is computed."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from levelhead.errors import LevelheadError
from levelhead.losses import LOSSES, cross_entropy
from levelhead.targets import Targets, check_smoothing, levels, one_hot, smooth

CONVENTIONS = ("uniform", "others")
cases = settings(max_examples=25, deadline=None)


def draw(seed: int, batch: int, classes: int, dtype: torch.dtype = torch.float32):
    """Logits with some spread, labels, and class weights around one."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, classes, generator=generator, dtype=torch.float64) * 4
    labels = torch.randint(0, classes, (batch,), generator=generator)
    weights = torch.rand(classes, generator=generator, dtype=torch.float64) * 2 + 0.1
    return logits.to(dtype), labels, weights.to(dtype)


def literal_targets(labels: torch.Tensor, classes: int, epsilon: float, convention: str):
    """The smoothed targets written out entry by entry, float64: an independent reference."""
    wanted = np.empty((len(labels), classes))
    for i, label in enumerate(labels.tolist()):
        for k in range(classes):
            if convention == "uniform":
                wanted[i, k] = (1 - epsilon) * (k == label) + epsilon / classes
            else:
                wanted[i, k] = 1 - epsilon if k == label else epsilon / (classes - 1)
    return wanted


def literal_loss(logits, wanted, weights=None):
    """−Σ_k w_k q_k log p_k in NumPy float64, row by row."""
    x = logits.double().numpy()
    shifted = x - x.max(1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    w = np.ones(x.shape[1]) if weights is None else weights.double().numpy()
    return -(w * wanted * log_p).sum(1)


@cases
@given(
    seed=st.integers(0, 10_000),
    classes=st.integers(2, 12),
    epsilon=st.floats(0, 0.999),
    weighted=st.booleans(),
)
def test_uniform_is_torchs_loss(seed, classes, epsilon, weighted):
    """If this fails, `uniform` is not the smoothing that torch and the papers mean."""
    logits, labels, weights = draw(seed, 7, classes)
    weights = weights if weighted else None
    ours = cross_entropy(logits, Targets(labels), smoothing=epsilon, class_weights=weights)
    theirs = F.cross_entropy(
        logits, labels, weight=weights, label_smoothing=epsilon, reduction="none"
    )
    assert ours.shape == (7,)
    torch.testing.assert_close(ours, theirs, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.7])
@pytest.mark.parametrize("path", ["loss", "explicit"])
def test_float64_logits_keep_their_precision(epsilon, path):
    """If this fails, a float64 study (or a numerical gradient) silently computes in float32."""
    logits, labels, _ = draw(3, 50, 10, torch.float64)
    theirs = F.cross_entropy(logits, labels, label_smoothing=epsilon, reduction="none")
    if path == "loss":
        ours = cross_entropy(logits, Targets(labels), smoothing=epsilon)
        torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-13)
    else:  # explicit targets are float32 by contract: their rounding remains
        soft = smooth(labels, 10, epsilon)
        ours = cross_entropy(logits, Targets(labels, soft))
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-6, atol=1e-6)


@cases
@given(
    seed=st.integers(0, 10_000),
    classes=st.integers(2, 12),
    share=st.floats(0, 0.99),
    convention=st.sampled_from(CONVENTIONS),
    weighted=st.booleans(),
)
def test_loss_path_equals_explicit_path(seed, classes, share, convention, weighted):
    """If this fails, `--targets explicit` trains another loss than `--targets loss`."""
    epsilon = share * ((classes - 1) / classes if convention == "others" else 1)
    logits, labels, weights = draw(seed, 6, classes)
    weights = weights if weighted else None
    inside = cross_entropy(
        logits,
        Targets(labels),
        smoothing=epsilon,
        convention=convention,
        class_weights=weights,
    )
    soft = smooth(labels, classes, epsilon, convention)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        explicit = cross_entropy(
            logits, Targets(labels, soft), convention=convention, class_weights=weights
        )
    torch.testing.assert_close(inside, explicit, rtol=5e-6, atol=5e-6)
    literal = literal_loss(logits, literal_targets(labels, classes, epsilon, convention), weights)
    np.testing.assert_allclose(inside.numpy(), literal, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("weighted", [False, True])
def test_gradients_agree(convention, weighted):
    """If this fails, the two paths (or torch) report one loss and follow another slope."""
    logits, labels, weights = draw(5, 9, 4)
    weights = weights if weighted else None
    grads = []
    for path in ("loss", "explicit", "torch"):
        x = logits.clone().requires_grad_()
        if path == "torch":
            wanted = torch.from_numpy(literal_targets(labels, 4, 0.3, convention)).float()
            loss = F.cross_entropy(x, wanted, weight=weights, reduction="none")
        else:
            targets = Targets(labels, smooth(labels, 4, 0.3, convention))
            loss = cross_entropy(
                x,
                targets if path == "explicit" else Targets(labels),
                smoothing=0.0 if path == "explicit" else 0.3,
                convention=convention,
                class_weights=weights,
            )
        loss.mean().backward()
        grads.append(x.grad)
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(grads[0], grads[2], rtol=1e-5, atol=1e-7)


def test_gradient_is_p_minus_q():
    """If this fails, the loss is no cross-entropy with the smoothed targets."""
    logits, labels, _ = draw(11, 5, 6)
    x = logits.clone().requires_grad_()
    cross_entropy(x, Targets(labels), smoothing=0.2, convention="others").sum().backward()
    wanted = torch.from_numpy(literal_targets(labels, 6, 0.2, "others")).float()
    torch.testing.assert_close(x.grad, logits.softmax(1) - wanted, rtol=1e-5, atol=1e-6)


@cases
@given(
    classes=st.integers(2, 50),
    share=st.floats(0, 0.999),
    convention=st.sampled_from(CONVENTIONS),
)
def test_targets_are_the_literal_formula(classes, share, convention):
    """If this fails, the targets are not the convention's formula, or are no distribution."""
    epsilon = share * ((classes - 1) / classes if convention == "others" else 1)
    labels = torch.arange(classes)
    made = smooth(labels, classes, epsilon, convention)
    assert made.dtype == torch.float32
    wanted = literal_targets(labels, classes, epsilon, convention)
    np.testing.assert_allclose(made.numpy(), wanted, rtol=0, atol=1e-7)
    np.testing.assert_allclose(made.double().sum(1).numpy(), 1, atol=1e-5)
    assert (made >= 0).all()
    assert (made.argmax(1) == labels).all()
    on, off = levels(epsilon, classes, convention)
    assert abs(on + (classes - 1) * off - 1) < 1e-12


@cases
@given(classes=st.integers(2, 100), epsilon=st.floats(0, 0.999))
def test_epsilon_others_is_epsilon_uniform_times_k_minus_1_over_k(classes, epsilon):
    """If this fails, papers that use the other convention cannot be repeated."""
    labels = torch.tensor([0, classes - 1])
    uniform = smooth(labels, classes, epsilon, "uniform")
    others = smooth(labels, classes, epsilon * (classes - 1) / classes, "others")
    torch.testing.assert_close(uniform, others, rtol=1e-5, atol=1e-7)


def test_two_classes():
    """If this fails, ε/K and ε/(K−1) are confused where they differ most (pytorch#148884)."""
    labels = torch.tensor([0, 1])
    torch.testing.assert_close(
        smooth(labels, 2, 0.2, "uniform"), torch.tensor([[0.9, 0.1], [0.1, 0.9]])
    )
    torch.testing.assert_close(
        smooth(labels, 2, 0.2, "others"), torch.tensor([[0.8, 0.2], [0.2, 0.8]])
    )


@pytest.mark.parametrize("classes", [2, 3, 10, 1000])
def test_others_refuses_what_makes_a_wrong_class_likeliest(classes):
    """If this fails, `others` trains towards wrong classes without a word."""
    edge = (classes - 1) / classes
    for epsilon in (edge, min(0.9999, edge + 1e-6)):
        with pytest.raises(LevelheadError, match=r"--smoothing .*others"):
            check_smoothing(epsilon, classes, "others")
        with pytest.raises(LevelheadError):
            smooth(torch.tensor([0]), classes, epsilon, "others")
        with pytest.raises(LevelheadError):
            cross_entropy(
                torch.zeros(1, classes),
                Targets(torch.tensor([0])),
                smoothing=epsilon,
                convention="others",
            )
    check_smoothing(edge - 1e-6, classes, "others")
    check_smoothing(edge, classes, "uniform")


@pytest.mark.parametrize("epsilon", [-0.1, 1.0, 1.5, float("nan"), float("inf")])
def test_epsilon_out_of_range_is_refused(epsilon):
    """If this fails, a smoothing outside [0, 1) makes targets that are no distribution."""
    for convention in CONVENTIONS:
        with pytest.raises(LevelheadError, match="--smoothing"):
            levels(epsilon, 10, convention)


def test_smoothing_soft_labels_warns_and_mixes_with_uniform():
    """If this fails, labels are smoothed twice in silence (timm's Mixup does), or wrongly."""
    soft = torch.tensor([[0.7, 0.2, 0.1], [0.0, 0.5, 0.5]])
    logits, labels, _ = draw(2, 2, 3)
    with pytest.warns(UserWarning, match="soft already"):
        mixed = smooth(soft, 3, 0.3)
    torch.testing.assert_close(mixed, 0.7 * soft + 0.1)
    with pytest.warns(UserWarning, match="soft already"):
        ours = cross_entropy(logits, Targets(labels, soft), smoothing=0.3)
    theirs = F.cross_entropy(logits, soft, label_smoothing=0.3, reduction="none")
    torch.testing.assert_close(ours, theirs)
    with pytest.warns(UserWarning, match="soft already"):
        others = smooth(soft, 3, 0.2, "others")
    torch.testing.assert_close(others.sum(1), torch.ones(2))
    with warnings.catch_warnings():  # no smoothing: nothing to warn of
        warnings.simplefilter("error")
        torch.testing.assert_close(smooth(soft, 3, 0.0), soft)
        cross_entropy(logits, Targets(labels, soft))


def test_class_weight_multiplies_each_class_term_and_the_mean_is_over_the_batch():
    """If this fails, class weights mean what torch's index targets mean: a sum over weights."""
    logits, labels, weights = draw(8, 40, 5)
    ours = cross_entropy(logits, Targets(labels), smoothing=0.1, class_weights=weights)
    soft = smooth(labels, 5, 0.1)
    # torch divides by the batch for dense targets, and by the sum of weights for index targets.
    dense = F.cross_entropy(logits, soft, weight=weights)
    index = F.cross_entropy(logits, labels, weight=weights, label_smoothing=0.1)
    torch.testing.assert_close(ours.mean(), dense)
    assert abs(float(ours.mean() - index)) > 1e-3
    hard = cross_entropy(logits, Targets(labels), class_weights=weights)
    plain = F.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(hard, plain * weights[labels])


def test_extreme_and_half_precision_logits_stay_finite():
    """If this fails, smoothing overflows in half precision (transformers#10674) or at 1e4."""
    logits = torch.tensor([[6e4, -6e4, 0.0], [0.0, 0.0, 6e4]])
    labels = torch.tensor([0, 1])
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        x = logits.to(dtype, copy=True).requires_grad_()
        loss = cross_entropy(x, Targets(labels), smoothing=0.1)
        assert loss.dtype == torch.float32
        assert torch.isfinite(loss).all()
        loss.mean().backward()
        assert torch.isfinite(x.grad).all()
    wide = torch.randn(2, 50_000, generator=torch.Generator().manual_seed(0))
    loss = cross_entropy(wide.half(), Targets(labels), smoothing=0.1)
    wanted = F.cross_entropy(wide.half().double(), labels, label_smoothing=0.1, reduction="none")
    torch.testing.assert_close(loss.double(), wanted, rtol=1e-5, atol=1e-5)


def test_table_of_losses_keeps_its_contract():
    """If this fails, a loss in the table cannot be called as the training loop calls it."""
    logits, labels, weights = draw(4, 8, 3)
    for loss in LOSSES.values():
        out = loss(
            logits.requires_grad_(),
            Targets(labels),
            smoothing=0.1,
            convention="others",
            class_weights=weights,
        )
        assert out.shape == (8,)
        assert out.requires_grad


def test_one_hot():
    """If this fails, hard explicit targets are not the identity's rows."""
    assert torch.equal(one_hot(torch.tensor([2, 0]), 3), torch.eye(3)[[2, 0]])
    assert torch.equal(smooth(torch.tensor([2, 0]), 3, 0.0), torch.eye(3)[[2, 0]])
