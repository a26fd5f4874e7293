"""Losses: each against its paper's formula, written out literally in float64."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from levelhead.errors import LevelheadError
from levelhead.losses import LOSSES, find_loss
from levelhead.targets import Targets, one_hot, smooth

cases = settings(max_examples=25, deadline=None)
NAMES = tuple(LOSSES)
SOFT = tuple(name for name in NAMES if LOSSES[name].soft)
SMOOTHED = tuple(name for name in NAMES if LOSSES[name].smoothing)


def draw(seed: int, batch: int = 6, classes: int = 5):
    """Logits wide enough for every branch, labels, soft labels and class weights, float64."""
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, classes, generator=g, dtype=torch.float64) * 6
    labels = torch.randint(0, classes, (batch,), generator=g)
    soft = torch.rand(batch, classes, generator=g, dtype=torch.float64)
    weights = torch.rand(classes, generator=g, dtype=torch.float64) * 2 + 0.1
    return logits, labels, soft / soft.sum(1, keepdim=True), weights


def literal(name, z, q, y, w, strength, margin):
    """One example's loss by the paper's formula, in plain Python floats; q the targets, y label."""
    classes = range(len(z))

    def softmax(scores):
        top = max(scores)
        e = [math.exp(s - top) for s in scores]
        return [v / sum(e) for v in e]

    if name == "logit_norm":
        length = math.sqrt(sum(v * v for v in z))
        z = [v / (strength * length) for v in z]
    p = softmax(z)
    ce = -sum(w[k] * q[k] * math.log(p[k]) for k in classes)
    if name in ("cross_entropy", "logit_norm"):
        return ce
    if name == "focal":
        return -sum(w[k] * q[k] * (1 - p[k]) ** strength * math.log(p[k]) for k in classes)
    if name == "confidence_penalty":
        return ce - strength * -sum(p[k] * math.log(p[k]) for k in classes)
    if name == "mbls":
        return ce + strength * sum(max(0, max(z) - z[k] - margin) for k in classes) / len(z)
    if name == "maxsup":
        return ce + strength * (max(z) - sum(z) / len(z))
    if name == "rmse":
        weight = sum(q[k] * w[k] for k in classes)
        return weight * math.sqrt(sum((p[k] - q[k]) ** 2 for k in classes) / len(z))
    assert name == "label_relaxation"
    if p[y] >= 1 - strength:
        return 0.0
    rest = sum(p[k] for k in classes if k != y)
    nearest = [1 - strength if k == y else strength * p[k] / rest for k in classes]
    return w[y] * sum(r * math.log(r / p[k]) for k, r in enumerate(nearest) if r > 0)


@cases
@given(
    seed=st.integers(0, 10_000),
    name=st.sampled_from(NAMES),
    kind=st.sampled_from(["hard", "soft", "smoothed"]),
    weighted=st.booleans(),
    share=st.floats(0.05, 1.0),  # below, LogitNorm's literal p underflows to log 0
)
def test_each_loss_is_its_papers_formula(seed, name, kind, weighted, share):
    """If this fails, a loss is not the one whose paper it names."""
    kind = "hard" if not LOSSES[name].soft or (name not in SMOOTHED and kind != "soft") else kind
    logits, labels, soft, weights = draw(seed)
    knobs = {knob: entry.default * share for knob, entry in LOSSES[name].knobs.items()}
    if "strength" in knobs:
        knobs["strength"] *= 2
    epsilon = 0.2 if kind == "smoothed" else 0.0
    q = soft if kind == "soft" else (1 - epsilon) * one_hot(labels, 5).double() + epsilon / 5
    w = weights if weighted else torch.ones(5, dtype=torch.float64)
    ours = LOSSES[name](
        logits,
        Targets(labels, soft if kind == "soft" else None),
        smoothing=epsilon,
        class_weights=weights if weighted else None,
        **knobs,
    )
    numbers = knobs.get("strength"), knobs.get("margin")
    wanted = [
        literal(name, *(t.tolist() for t in (logits[i], q[i], labels[i], w)), *numbers)
        for i in range(6)
    ]
    np.testing.assert_allclose(ours.numpy(), wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "strength", "margin"),
    [
        ("cross_entropy", 0, 0),
        ("focal", 3, 0),
        ("confidence_penalty", 0.1, 0),
        ("mbls", 0.1, 10),
        ("maxsup", 0.1, 0),
        ("label_relaxation", 0.1, 0),
        ("logit_norm", 0.04, 0),
        ("rmse", 0, 0),
    ],
)
def test_defaults_are_the_papers(name, strength, margin):
    """If this fails, a loss without a strength given is not the paper's."""
    options = LOSSES[name].options()
    assert options.knobs.get("strength", 0) == strength
    assert options.knobs.get("margin", 0) == margin
    logits, labels, _, _ = draw(1)
    told = {"strength": strength} if strength else {}
    told |= {"margin": margin} if margin else {}
    ours = LOSSES[name](logits, Targets(labels))
    assert torch.equal(ours, LOSSES[name](logits, Targets(labels), **told))


@pytest.mark.parametrize("name", NAMES)
def test_an_example_without_a_label_has_no_loss_and_no_slope(name):
    """If this fails, unlabelled images are taken for some class (torch's `ignore_index`)."""
    logits, labels, _, weights = draw(4)
    labels[[1, 4]] = -1
    logits.requires_grad_()
    ours = LOSSES[name](logits, labels, class_weights=weights)
    assert ours[[1, 4]].tolist() == [0, 0]
    ours.sum().backward()
    assert logits.grad[[1, 4]].abs().max() == 0
    assert logits.grad[[0, 2]].abs().max() > 0
    if name == "cross_entropy":
        for epsilon in (0.0, 0.1):
            theirs = torch.nn.functional.cross_entropy(
                logits, labels, ignore_index=-1, reduction="none", label_smoothing=epsilon
            )
            torch.testing.assert_close(LOSSES[name](logits, labels, smoothing=epsilon), theirs)


def test_the_zero_one_loss_is_refused_with_the_reason():
    """If this fails, a network is trained on a loss that teaches nothing."""
    with pytest.raises(LevelheadError, match=r"flat, its gradient is 0 .* zero_one"):
        find_loss("zero_one")
    with pytest.raises(
        LevelheadError, match="--loss rmse: is to the one-hot label; leave out --sm"
    ):
        LOSSES["rmse"].options(0.1)


@pytest.mark.parametrize("kind", ["hard", "soft", "smoothed"])
@pytest.mark.parametrize("name", NAMES)
def test_slopes_are_those_of_the_loss(name, kind):
    """If this fails, training follows another slope than the loss's (torch.autograd.gradcheck)."""
    if (kind == "soft" and name not in SOFT) or (kind == "smoothed" and name not in SMOOTHED):
        pytest.skip("refused, see below")
    logits, labels, soft, weights = draw(9, batch=4)
    logits = (logits / 2).requires_grad_()
    targets = Targets(labels, soft if kind == "soft" else None)
    told = {"smoothing": 0.2, "convention": "others"} if kind == "smoothed" else {}
    if name == "mbls":
        told["margin"] = 2.0  # so that both sides of the margin occur
    if name == "logit_norm":
        told["strength"] = 0.5
    assert torch.autograd.gradcheck(
        lambda z: LOSSES[name](z, targets, class_weights=weights, **told), (logits,)
    )


@cases
@given(seed=st.integers(0, 10_000), name=st.sampled_from(NAMES), soft=st.booleans())
def test_order_of_classes_and_shift_of_logits_do_not_matter(seed, name, soft):
    """If this fails, a loss depends on how classes are numbered, or on a constant added to all."""
    logits, labels, q, weights = draw(seed)
    told = {"smoothing": 0.1} if name in SMOOTHED and not soft else {}
    q = q if soft and name in SOFT else None
    loss = LOSSES[name](logits, Targets(labels, q), class_weights=weights, **told)
    order = torch.randperm(5, generator=torch.Generator().manual_seed(seed))
    moved = LOSSES[name](
        logits[:, order],
        Targets(order.argsort()[labels], None if q is None else q[:, order]),
        class_weights=weights[order],
        **told,
    )
    torch.testing.assert_close(loss, moved, rtol=1e-10, atol=1e-10)
    told["class_weights"] = weights
    shifted = LOSSES[name](logits + 3, Targets(labels, q), **told)
    if name != "logit_norm":
        torch.testing.assert_close(loss, shifted, rtol=1e-10, atol=1e-10)
    else:  # the length changes with the shift; it does not matter itself
        assert not torch.allclose(loss, shifted)
        for factor in (7, 1e200):  # the square of the second is infinite
            longer = LOSSES[name](logits * factor, Targets(labels, q), **told)
            torch.testing.assert_close(loss, longer, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", NAMES)
def test_table_keeps_its_contract(name, dtype):
    """If this fails, a loss cannot be called as the training loop does, or ends in inf or nan."""
    huge = 6e4 if dtype == torch.float16 else 1e30
    rows = [[huge, -huge, 0.0], [-huge, huge, huge], [0.0, 0.0, 0.0], [1e-8, 0.0, 0.0], [9, 0, -9]]
    labels = torch.tensor([0, 0, 1, 0, 0])
    strengths = (None, 0.5, 0.01) if "strength" in LOSSES[name].knobs else (None,)
    for strength in strengths:
        for epsilon in (0.0, 0.1) if name in SMOOTHED else (0.0,):
            logits = torch.tensor(rows, dtype=dtype, requires_grad=True)
            loss = LOSSES[name](
                logits,
                Targets(labels),
                smoothing=epsilon,
                convention="others",
                class_weights=torch.tensor([0.5, 1.0, 2.0]),
                strength=strength,
                margin=None,
            )
            assert loss.shape == (5,)
            assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
            assert torch.isfinite(loss).all()
            loss.sum().backward()
            if name == "logit_norm" and dtype == torch.float16:
                # Its true slope there, ~1/(τ · 1e-7), is beyond float16's 65504: not ours to fix.
                assert not torch.isfinite(logits.grad[2:4]).any()
                logits.grad[2:4] = 0
            assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("name", NAMES)
def test_entries_are_named_as_in_the_table(name):
    """If this fails, an error names another loss than the one that was asked for."""
    loss = LOSSES[name]
    assert loss.name == name
    assert loss.__doc__ is not None
    assert "Source: " in loss.__doc__, "whose loss is it?"
    for knob in loss.knobs.values():
        assert 0 <= knob.default < knob.below


@pytest.mark.parametrize("name", SOFT)
def test_soft_targets_that_are_hard_or_smoothed_give_the_same_loss(name):
    """If this fails, `--targets explicit` trains another loss than `--targets loss`."""
    logits, labels, _, weights = draw(17, batch=20)
    for epsilon in (0.0, 0.3) if name in SMOOTHED else (0.0,):
        soft = smooth(labels, 5, epsilon)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            explicit = LOSSES[name](logits, Targets(labels, soft), class_weights=weights)
        inside = LOSSES[name](logits, Targets(labels), smoothing=epsilon, class_weights=weights)
        torch.testing.assert_close(inside, explicit, rtol=2e-6, atol=2e-6)
    if name in SMOOTHED:
        with pytest.warns(UserWarning, match="soft already"):
            LOSSES[name](logits, Targets(labels, soft), smoothing=0.1)


@pytest.mark.parametrize("name", ["focal", "confidence_penalty", "mbls", "maxsup"])
def test_without_strength_it_is_cross_entropy(name):
    """If this fails, the strength scales something else than what was added to cross-entropy."""
    logits, labels, soft, weights = draw(5, batch=30)
    for targets in (Targets(labels), Targets(labels, soft)):
        ours = LOSSES[name](logits, targets, strength=0.0, class_weights=weights)
        torch.testing.assert_close(
            ours, LOSSES["cross_entropy"](logits, targets, class_weights=weights)
        )


def test_maxsup_is_smoothing_where_the_prediction_is_right():
    """If this fails, MaxSup is not the fix of smoothing that its paper derives."""
    logits, labels, _, _ = draw(3, batch=200)
    right = logits.argmax(1) == labels
    assert 10 < int(right.sum()) < 190
    suppressed = LOSSES["maxsup"](logits, Targets(labels), strength=0.2)
    smoothed = LOSSES["cross_entropy"](logits, Targets(labels), smoothing=0.2)
    torch.testing.assert_close(suppressed[right], smoothed[right], rtol=1e-12, atol=1e-12)
    assert (suppressed[~right] > smoothed[~right]).all()


def test_relaxation_slope_holds_the_projection_fixed_or_not():
    """If this fails, our shorter formula trains otherwise than the authors' (p − p^r)."""
    logits, labels, _, _ = draw(13, batch=50)
    x = logits.clone().requires_grad_()
    LOSSES["label_relaxation"](x, Targets(labels), strength=0.2).sum().backward()
    p, hot = logits.softmax(1), one_hot(labels, 5).double()
    right = (p * hot).sum(1, keepdim=True)
    projected = torch.where(hot > 0, 0.8, 0.2 * p / (1 - right))
    wanted = torch.where(right >= 0.8, 0, p - projected)
    assert 0 < int((right >= 0.8).sum()) < 50
    torch.testing.assert_close(x.grad, wanted, rtol=1e-9, atol=1e-12)


def test_relaxation_without_slack_is_cross_entropy():
    """If this fails, α = 0 is no limit of the formula (0 · log 0)."""
    logits, labels, _, _ = draw(4)
    ours = LOSSES["label_relaxation"](logits, Targets(labels), strength=0.0)
    torch.testing.assert_close(ours, LOSSES["cross_entropy"](logits, Targets(labels)))


@pytest.mark.parametrize(
    ("name", "strength", "margin", "words"),
    [
        ("cross_entropy", 0.1, None, "--strength 0.1.*no strength"),
        ("maxsup", None, 1.0, "--margin 1.0.*no margin"),
        ("focal", -1.0, None, "γ"),
        ("focal", math.nan, None, "γ"),
        ("confidence_penalty", math.inf, None, "β"),
        ("label_relaxation", 1.0, None, "α"),
        ("logit_norm", 0.0, None, r"\(0, inf\)"),
        ("mbls", None, -1.0, "--margin -1.0"),
        ("mbsl", None, None, "did you mean 'mbls'"),
    ],
)
def test_a_knob_that_does_nothing_or_harm_is_refused(name, strength, margin, words):
    """If this fails, a strength is ignored, or turns the loss over, without a word."""
    with pytest.raises(LevelheadError, match=words):
        find_loss(name).options(knobs={"strength": strength, "margin": margin})
    if name in LOSSES:
        with pytest.raises(LevelheadError, match=words):
            LOSSES[name](torch.eye(3), Targets(torch.arange(3)), strength=strength, margin=margin)


def test_what_does_not_go_together_is_refused():
    """If this fails, smoothing is penalised twice, or soft labels are thrown away in silence."""
    logits, labels, soft, _ = draw(2)
    for name in set(NAMES) - set(SMOOTHED):
        for epsilon in (0.1, torch.full((5,), 0.1)):
            with pytest.raises(LevelheadError, match="leave out --smoothing"):
                LOSSES[name](logits, Targets(labels), smoothing=epsilon)
        with pytest.raises(LevelheadError, match="leave out --smoothing"):
            LOSSES[name].options(0.1)
    with pytest.raises(LevelheadError, match="soft targets"):
        LOSSES["label_relaxation"](logits, Targets(labels, soft))
    with pytest.raises(LevelheadError, match="uniform"):
        LOSSES["label_relaxation"](logits, Targets(labels), strength=0.8)
    with pytest.raises(LevelheadError, match="has no smothing"):
        LOSSES["label_relaxation"](logits, Targets(labels), smothing=0.1)


@pytest.mark.parametrize("convention", ["uniform", "others"])
@pytest.mark.parametrize("epsilon", [0.0, 0.1])
def test_large_vocabularies_in_pieces_are_torchs(epsilon, convention):
    """From 1,024 classes on the loss is worked out some rows at a time, gradient included."""
    from levelhead.losses import cross_entropy as module

    assert module.name == "cross_entropy"
    torch.manual_seed(0)
    k = 1500
    z = (torch.randn(700, k) * 5 + 100).requires_grad_()
    y, w = torch.randint(0, k, (700,)), torch.rand(700)
    y[3] = -1
    own = module(z, y, smoothing=epsilon, convention=convention)
    (own * w).sum().backward()
    exact = z.detach().double().requires_grad_()
    uniform = epsilon if convention == "uniform" else epsilon * k / (k - 1)
    reference = torch.nn.functional.cross_entropy(
        exact, y, reduction="none", label_smoothing=uniform, ignore_index=-1
    )
    (reference * w.double()).sum().backward()
    assert z.grad is not None
    assert exact.grad is not None
    torch.testing.assert_close(own.double(), reference, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(z.grad.double(), exact.grad, atol=1e-5, rtol=1e-4)
    weighted = module(z[:9], y[:9].clamp_min(0), class_weights=torch.ones(k), smoothing=epsilon)
    plain = module(z[:9], y[:9].clamp_min(0), smoothing=epsilon)
    torch.testing.assert_close(weighted, plain, atol=1e-4, rtol=1e-4)  # the other way to it


def test_rmse_at_its_root():
    """At an error of exactly 0 the slope of a root is infinite: NaN would end the training; and
    what is added under the root to avoid that is no part of the error."""
    logits = torch.tensor([[1000.0, 0, 0], [1, 2, 3]], requires_grad=True)
    losses = find_loss("rmse")(logits, torch.tensor([0, 2]))
    losses.sum().backward()
    assert losses[0] == 0
    assert logits.grad is not None
    assert bool(logits.grad.isfinite().all())
    assert logits.grad[0].tolist() == [0, 0, 0]
