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
from levelhead.losses import cross_entropy
from levelhead.targets import (
    OnlineTable,
    Targets,
    check_smoothing,
    confused_pairs,
    human,
    levels,
    mix,
    noisy,
    one_hot,
    smooth,
    target_table,
    towards,
)

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


def test_one_hot():
    """If this fails, hard explicit targets are not the identity's rows."""
    assert torch.equal(one_hot(torch.tensor([2, 0]), 3), torch.eye(3)[[2, 0]])
    assert torch.equal(smooth(torch.tensor([2, 0]), 3, 0.0), torch.eye(3)[[2, 0]])


def literal_towards(labels, prior, epsilon, convention):
    """(1 − ε_y) · one-hot + ε_y · prior, entry by entry, float64; a matrix's rows add up to one."""
    prior, epsilon = prior.double().numpy(), np.broadcast_to(np.asarray(epsilon), len(prior))
    made = np.zeros((len(labels), len(prior)))
    for i, y in enumerate(labels.tolist()):
        row = np.array(prior if prior.ndim == 1 else prior[y])
        if convention == "others":
            row[y] = 0
        row /= row.sum()
        for k in range(len(prior)):
            made[i, k] = (1 - epsilon[y]) * (k == y) + epsilon[y] * row[k]
    return made


@cases
@given(
    seed=st.integers(0, 10_000),
    classes=st.integers(2, 9),
    matrix=st.booleans(),
    by_class=st.booleans(),
    convention=st.sampled_from(CONVENTIONS),
)
def test_towards_is_the_literal_formula(seed, classes, matrix, by_class, convention):
    """If this fails, a prior or a similarity matrix trains towards other targets than it says."""
    generator = torch.Generator().manual_seed(seed)
    prior = torch.rand((classes, classes) if matrix else (classes,), generator=generator) + 0.01
    prior = prior if matrix else prior / prior.sum()
    epsilon = torch.rand(classes, generator=generator) * 0.45 if by_class else 0.3
    labels = torch.randint(0, classes, (7,), generator=generator)
    made = towards(labels, prior, epsilon, convention)
    wanted = literal_towards(labels, prior, epsilon, convention)
    assert made.dtype == torch.float32
    np.testing.assert_allclose(made.numpy(), wanted, rtol=0, atol=3e-7)
    assert (made.argmax(1) == labels).all()
    uniform = torch.full((classes,), 1 / classes)
    made, plain = (
        f(epsilon)
        for f in (
            lambda e: towards(labels, uniform, e * 0.99, convention),
            lambda e: smooth(labels, classes, e * 0.99, convention),
        )
    )
    torch.testing.assert_close(made, plain, rtol=0, atol=3e-7)


@pytest.mark.parametrize(
    ("prior", "epsilon", "convention", "words"),
    [
        (torch.tensor([0.5, 0.6]), 0.1, "uniform", "adds up to 1.1"),
        (torch.tensor([1.5, -0.5]), 0.1, "uniform", "negative"),
        (torch.tensor([float("nan"), 0.5]), 0.1, "uniform", "not finite"),
        (torch.ones(2, 3), 0.1, "uniform", "shape"),
        (torch.tensor([[1.0, 0.0], [1.0, 1.0]]), 0.1, "others", "row 0"),
        (torch.tensor([0.9, 0.1]), 0.6, "uniform", "as class 1"),
        (torch.tensor([0.5, 0.5]), 1.0, "uniform", "--smoothing 1.0"),
        (torch.tensor([0.5, 0.5]), torch.tensor([0.1, 0.2, 0.3]), "uniform", "2 classes"),
        (torch.tensor([0.5, 0.5]), torch.tensor([0.5, -0.5]), "uniform", "--smoothing -0.5"),
    ],
)
def test_a_prior_that_is_none_is_refused(prior, epsilon, convention, words):
    """If this fails, targets are no distribution, or teach a wrong class, without a word."""
    with pytest.raises(LevelheadError, match=words):
        target_table(prior, epsilon, convention)


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("weighted", [False, True])
def test_epsilon_of_each_class(convention, weighted):
    """If this fails, the ε of another class than the label's is used, in one of the paths."""
    logits, labels, weights = draw(21, 30, 4, torch.float64)
    weights = weights if weighted else None
    epsilon = torch.tensor([0.0, 0.1, 0.3, 0.7], dtype=torch.float64)
    wanted = np.concatenate(
        [
            literal_targets(labels[i : i + 1], 4, float(epsilon[labels[i]]), convention)
            for i in range(30)
        ]
    )
    np.testing.assert_allclose(smooth(labels, 4, epsilon, convention).numpy(), wanted, atol=2e-7)
    ours = cross_entropy(
        logits, Targets(labels), smoothing=epsilon, convention=convention, class_weights=weights
    )
    np.testing.assert_allclose(ours.numpy(), literal_loss(logits, wanted, weights), rtol=1e-12)
    with pytest.warns(UserWarning, match="by class"):  # one-hot rows are soft labels too
        soft = smooth(one_hot(labels, 4), 4, epsilon, convention)
    np.testing.assert_allclose(soft.numpy(), wanted, atol=2e-7)
    same = torch.full((4,), 0.2)
    torch.testing.assert_close(
        smooth(labels, 4, same, convention), smooth(labels, 4, 0.2, convention)
    )
    with pytest.raises(LevelheadError, match="values for 4 classes"):
        smooth(labels, 4, epsilon[:2], convention)


@cases
@given(
    seed=st.integers(0, 10_000),
    convention=st.sampled_from(CONVENTIONS),
    rule=st.sampled_from(["one", "by class", "prior"]),
)
def test_mixing_and_smoothing_commute(seed, convention, rule):
    """If this fails, mixup with smoothing means two things, by which of the two comes first."""
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randint(0, 5, (2, 8), generator=generator)
    share = torch.rand(8, generator=generator)
    epsilon = 0.3 if rule == "one" else torch.rand(5, generator=generator) * 0.4
    prior = torch.rand(5, 5, generator=generator) + 0.1

    def soften(labels):
        if rule == "prior":
            return towards(labels, prior, epsilon, convention)
        return smooth(labels, 5, epsilon, convention)

    plain = mix(one_hot(a, 5), one_hot(b, 5), share)
    literal = np.zeros((8, 5))
    for i in range(8):
        literal[i, a[i]] += float(share[i])
        literal[i, b[i]] += 1 - float(share[i])
    np.testing.assert_allclose(plain.numpy(), literal, atol=1e-7)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        after = mix(soften(a), soften(b), share)  # smoothed once each: nothing to warn of
    with pytest.warns(UserWarning, match="soft already"):
        before = soften(plain)
    torch.testing.assert_close(before, after, rtol=0, atol=3e-7)
    torch.testing.assert_close(mix(plain, after, 0.25), 0.25 * plain + 0.75 * after)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan"), torch.tensor([0.5, 2.0])])
def test_a_share_is_a_share(share):
    """If this fails, a mixture has negative probabilities."""
    with pytest.raises(LevelheadError, match="share"):
        mix(torch.eye(2), torch.eye(2), share)


def test_human_labels_are_shares_of_votes():
    """If this fails, annotators' votes are no targets, or an image nobody saw becomes nan."""
    made = human(torch.tensor([[3, 1, 0], [0, 0, 51]]))
    assert torch.equal(made, torch.tensor([[0.75, 0.25, 0.0], [0.0, 0.0, 1.0]]))
    for votes in ([[1, 1], [0, 0]], [[1, 1], [2, -1]], [[1, 1], [float("nan"), 1]]):
        with pytest.raises(LevelheadError, match="row 1"):
            human(torch.tensor(votes))


def test_online_table_is_zhangs_over_two_epochs():
    """If this fails, the soft labels are not the mean softmax of the hits of the last epoch."""
    online = OnlineTable.start(4)
    assert torch.equal(online.table, torch.full((4, 4), 0.25))
    for epoch in range(2):
        sums, hits = np.zeros((4, 4)), np.zeros(4)
        for step in range(3):
            logits, labels, _ = draw(100 + 10 * epoch + step, 20, 4)
            logits[labels == 2, 3] = 99  # class 2 is never hit
            online.update(logits.requires_grad_(), labels)
            x = logits.detach().double().numpy()
            p = np.exp(x - x.max(1, keepdims=True))
            p /= p.sum(1, keepdims=True)
            for row, label in zip(p, labels.tolist(), strict=True):
                if row.argmax() == label:
                    sums[label] += row
                    hits[label] += 1
        wanted = np.full((4, 4), 0.25)
        wanted[hits > 0] = sums[hits > 0] / hits[hits > 0, None]
        assert hits[2] == 0
        assert (hits > 0).sum() == 3
        table = online.next()
        np.testing.assert_allclose(table.numpy(), wanted, atol=2e-7)
        assert not table.requires_grad
        assert not online.sums.any()
    again = OnlineTable(**{name: tensor.clone() for name, tensor in vars(online).items()})
    assert torch.equal(again.next(), torch.full((4, 4), 0.25))  # an epoch without hits


def test_online_targets_are_half_and_half_of_the_two_losses():
    """If this fails, training towards the table is not ½ CE + ½ OLS."""
    logits, labels, _ = draw(31, 12, 5)
    online = OnlineTable.start(5)
    online.update(*draw(32, 60, 5)[:2])
    table = online.next()
    soft = towards(labels, table, 0.5)
    torch.testing.assert_close(soft, 0.5 * one_hot(labels, 5) + 0.5 * table[labels])
    log_p = logits.double().log_softmax(1).numpy()
    wanted = []
    for i, y in enumerate(labels.tolist()):
        ols = -sum(float(table[y, k]) * log_p[i, k] for k in range(5))
        wanted.append(0.5 * -log_p[i, y] + 0.5 * ols)
    ours = cross_entropy(logits, Targets(labels, soft))
    np.testing.assert_allclose(ours.numpy(), wanted, rtol=2e-6)


CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer"]
CIFAR10 += ["dog", "frog", "horse", "ship", "truck"]


def test_cifar10_pairs():
    """If this fails, asymmetric noise is not that of the papers on CIFAR-10."""
    told = {CIFAR10[a]: CIFAR10[b] for a, b in confused_pairs(CIFAR10).items()}
    assert told == {
        "truck": "automobile",
        "bird": "airplane",
        "deer": "horse",
        "cat": "dog",
        "dog": "cat",
    }
    assert confused_pairs(["a", "b", "c"]) == {0: 1, 1: 2, 2: 0}


@pytest.mark.parametrize("kind", ["symmetric", "asymmetric", "cifar10"])
def test_noise_has_its_confusion_matrix(kind):
    """If this fails, the noise rate means something else (as with flips to the label itself)."""
    labels = torch.arange(10).repeat(4000)
    pairs = confused_pairs(CIFAR10) if kind == "cifar10" else None
    name = "symmetric" if kind == "symmetric" else "asymmetric"
    made = noisy(labels, 10, name, 0.4, 7, pairs)
    assert torch.equal(made, noisy(labels, 10, name, 0.4, 7, pairs))
    assert not torch.equal(made, noisy(labels, 10, name, 0.4, 8, pairs))
    found = np.zeros((10, 10))
    np.add.at(found, (labels.numpy(), made.numpy()), 1 / 4000)
    wanted = np.full((10, 10), 0.4 / 9) if kind == "symmetric" else np.zeros((10, 10))
    np.fill_diagonal(wanted, 0.6)
    for k in range(10):
        if kind == "asymmetric":
            wanted[k, (k + 1) % 10] = 0.4
        elif kind == "cifar10":
            if k in pairs:
                wanted[k, pairs[k]] = 0.4
            else:
                wanted[k, k] = 1.0
    spread = np.sqrt(wanted * (1 - wanted) / 4000)
    assert (np.abs(found - wanted) <= 4.5 * spread + 1e-9).all()  # 100 cells: 1 in 1500 by chance
    assert torch.equal(noisy(labels, 10, name, 0.0, 7, pairs), labels)


def test_noise_refuses_what_it_cannot_do():
    """If this fails, a misspelt kind or a rate in percent trains on other labels than meant."""
    labels = torch.tensor([0, 1, 2])
    for arguments, words in (
        ((labels, 3, "symmetric", 20, 0), "rate 20"),
        ((labels, 3, "symetric", 0.2, 0), "symetric"),
        ((labels, 2, "symmetric", 0.2, 0), "0 .. 1"),
        ((labels, 3, "asymmetric", 0.2, 0, {0: 3}), "pairs"),
    ):
        with pytest.raises(LevelheadError, match=words):
            noisy(*arguments)
