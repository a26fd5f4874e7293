"""Optimisers, their groups, and schedules, against torch's own and against formulas."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from levelhead.models import Shape, build
from levelhead.recipe import Recipe
from levelhead.training.optim import (
    LEVELS,
    LOWEST,
    Muon,
    factor,
    load_state_tensors,
    optimisers,
    orthogonalise,
    set_rates,
    state_tensors,
)

few = settings(max_examples=20, deadline=None)


@pytest.fixture(autouse=True)
def _one_thread():
    """Tiny tensors run faster on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def recipe(**changes) -> Recipe:
    """A resolved recipe."""
    chosen = {
        "optimizer": "sgd",
        "lr": 0.1,
        "momentum": 0.9,
        "weight_decay": 0.01,
        "schedule": "constant",
        "warmup": 0.0,
        "epochs": 10,
        "batch_size": 100,
    }
    return Recipe("digits", **{**chosen, **changes})


def network(model: str, size: int = 16, channels: int = 1):
    """A small network."""
    mean, std = torch.full((channels,), 100.0), torch.full((channels,), 50.0)
    return build(model, Shape(channels, size, 4), mean=mean, std=std)


# --- orthogonalisation ---------------------------------------------------------------------------


@few
@given(rows=st.integers(1, 12), columns=st.integers(1, 12), seed=st.integers(0, 999))
def test_orthogonalise_keeps_singular_vectors_and_pulls_values_to_one(rows, columns, seed):
    """If this fails, Muon's update is not the nearest orthogonal matrix's direction."""
    matrix = torch.randn(
        rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    u, values, vh = torch.linalg.svd(matrix, full_matrices=False)
    made = orthogonalise(matrix, steps=5)
    assert made.shape == matrix.shape
    inner = u.T @ made @ vh.T  # diagonal if and only if the singular vectors are kept
    torch.testing.assert_close(inner, torch.diag(inner.diagonal()), rtol=0, atol=1e-6)
    # The values are the odd quintic applied to the normalised ones, five times.
    x = values / values.norm()
    for _ in range(5):
        x = 3.4445 * x - 4.7750 * x**3 + 2.0315 * x**5
    torch.testing.assert_close(inner.diagonal(), x, rtol=1e-4, atol=1e-6)
    large = values / values.norm() > 0.05
    assert ((inner.diagonal() > 0.5) & (inner.diagonal() < 1.3))[large].all()


def test_orthogonalise_ignores_scale_and_transposes():
    """If this fails, the step length depends on the loss's scale, or tall differs from wide."""
    matrix = torch.randn(6, 9, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        orthogonalise(matrix * 1e3), orthogonalise(matrix), rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(orthogonalise(matrix.T), orthogonalise(matrix).T)
    assert torch.equal(orthogonalise(torch.zeros(3, 2)), torch.zeros(3, 2))


# --- Muon ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(40, 30), (30, 40), (160, 128)])
def test_muon_is_torchs_muon(shape):
    """If this fails, plain Muon is not the published optimiser (2-D weights, five steps)."""
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("this torch has no Muon")
    generator = torch.Generator().manual_seed(0)
    ours = torch.nn.Parameter(torch.randn(shape, generator=generator))
    theirs = torch.nn.Parameter(ours.detach().clone())
    start = ours.detach().clone()
    mine = Muon([{"params": [ours]}], 0.02, 0.95, weight_decay=0.1, steps=5)
    other = torch.optim.Muon([theirs], lr=0.02, momentum=0.95, weight_decay=0.1, ns_steps=5)
    for _ in range(6):
        gradient = torch.randn(shape, generator=generator)
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        mine.step()
        other.step()
    # torch works in bfloat16, we in float32 where the matrix is small: a per cent of the way gone.
    way = (theirs - start).norm()
    assert (ours - theirs).norm() < 0.02 * way


def literal_muon(weight, gradients, lr, momentum, decay, sphere, steps=3):
    """Jordan's Muon written out in float64, for weights of any shape."""
    w, velocity = weight.double(), torch.zeros_like(weight, dtype=torch.float64)
    for gradient in gradients:
        velocity = momentum * velocity + gradient.double()
        nesterov = gradient.double() + momentum * velocity
        flat = nesterov.reshape(len(w), -1)
        u, values, vh = torch.linalg.svd(flat, full_matrices=False)
        values = values / values.norm()
        for _ in range(steps):
            values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
        update = (u @ torch.diag(values) @ vh).reshape(w.shape)
        if sphere:
            w = w / w.norm() * len(w) ** 0.5 - lr * update
        else:
            w = (1 - lr * decay) * w
            w = w - lr * max(1.0, flat.shape[0] / flat.shape[1]) ** 0.5 * update
    return w.float()


@pytest.mark.parametrize("sphere", [False, True])
@pytest.mark.parametrize("shape", [(8, 3, 3, 3), (32, 4), (4, 32)])
def test_muon_is_its_literal_transcription(sphere, shape):
    """If this fails, Muon's momentum, scale, decay or normalisation is not as written down."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.nn.Parameter(torch.randn(shape, generator=generator))
    start = weight.detach().clone()
    gradients = [torch.randn(shape, generator=generator) for _ in range(5)]
    optimiser = Muon([{"params": [weight]}], 0.1, 0.6, weight_decay=0.05, sphere=sphere)
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimiser.step()
    wanted = literal_muon(start, gradients, 0.1, 0.6, 0.05, sphere)
    torch.testing.assert_close(weight.detach(), wanted, rtol=1e-4, atol=1e-4)


def test_muon_takes_any_memory_format_and_leaves_gradients_alone():
    """If this fails, channels-last weights train otherwise, or a gradient is spoilt."""
    generator = torch.Generator().manual_seed(2)
    start = torch.randn(8, 4, 3, 3, generator=generator)
    gradient = torch.randn(8, 4, 3, 3, generator=generator)
    ends = []
    for layout in (torch.contiguous_format, torch.channels_last):
        weight = torch.nn.Parameter(start.clone(memory_format=layout))
        optimiser = Muon([{"params": [weight]}], 0.1, 0.9, sphere=True)
        for _ in range(3):
            weight.grad = gradient.clone(memory_format=layout)
            optimiser.step()
            assert torch.equal(weight.grad, gradient)
        ends.append(weight.detach())
    torch.testing.assert_close(*ends, rtol=1e-5, atol=1e-5)
    untouched = torch.nn.Parameter(start.clone())
    Muon([{"params": [untouched]}], 0.1, 0.9).step()  # no gradient: no step
    assert torch.equal(untouched.detach(), start)


# --- groups --------------------------------------------------------------------------------------


def groups_of(made):
    """parameter -> its group."""
    return {p: g for o in made for g in o.param_groups for p in g["params"]}


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "muon"])
@pytest.mark.parametrize(
    "model", ["linear", "mlp", "cnn", "resnet20", "fast", "timm:vit_tiny_patch16_224"]
)
def test_every_trained_parameter_is_in_exactly_one_group(model, optimizer):
    """If this fails, some layer never learns, or is stepped twice."""
    net = network(model)
    made = optimisers(net, recipe(optimizer=optimizer))
    listed = [p for o in made for g in o.param_groups for p in g["params"]]
    assert len(listed) == len(set(listed))
    assert set(listed) == {p for p in net.parameters() if p.requires_grad}
    for group in (g for o in made for g in o.param_groups):
        assert group["params"]
        assert group["peak"] == group["lr"] > 0


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("model", ["mlp", "cnn", "resnet20", "fast"])
def test_biases_and_norms_are_not_decayed(model, optimizer):
    """If this fails, weight decay pulls at batch norm and biases, which only slows learning."""
    net = network(model)
    where = groups_of(optimisers(net, recipe(optimizer=optimizer)))
    for name, parameter in net.named_parameters():
        if parameter.requires_grad:
            wanted = 0.01 if parameter.dim() > 1 else 0.0
            assert where[parameter]["weight_decay"] == wanted, name
            assert where[parameter]["lr"] == 0.1


@pytest.mark.parametrize("model", ["mlp", "cnn", "resnet20"])
def test_muon_decays_matrices_only(model):
    """If this fails, Muon decays biases and norms, or nothing at all."""
    net = network(model)
    where = groups_of(optimisers(net, recipe(optimizer="muon", lr=0.02)))
    for name, parameter in net.body.named_parameters():
        if parameter.requires_grad:
            assert where[parameter]["weight_decay"] == (0.01 if parameter.dim() > 1 else 0), name
            assert where[parameter]["lr"] == pytest.approx(0.02 if parameter.dim() > 1 else 0.002)
    assert where[net.head.bias]["weight_decay"] == 0


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_finetuning_moves_lower_layers_slower(optimizer):
    """If this fails, finetuning overwrites the first layers at the head's rate."""
    net = network("cnn")
    where = groups_of(optimisers(net, recipe(optimizer=optimizer, finetune=True)))
    assert {where[p]["lr"] for p in net.head.parameters()} == {0.1}
    rates = [where[p]["lr"] for p in net.body.parameters()]
    assert rates == sorted(rates)
    assert len(set(rates)) == LEVELS
    assert rates[0] == pytest.approx(0.1 * LOWEST)
    assert rates[-1] == pytest.approx(0.1)
    plain = groups_of(optimisers(net, recipe(optimizer=optimizer)))
    assert {plain[p]["lr"] for p in net.parameters()} == {0.1}


def test_adamw_takes_momentum_as_its_first_beta():
    """If this fails, --momentum does nothing with adamw."""
    made = optimisers(network("cnn"), recipe(optimizer="adamw", momentum=0.8))
    assert {g["betas"] for o in made for g in o.param_groups} == {(0.8, 0.999)}


def test_sgd_is_torchs_nesterov_and_without_momentum_plain():
    """If this fails, sgd is not Nesterov's, or --momentum 0 raises from inside torch."""
    (made,) = optimisers(network("cnn"), recipe())
    assert {(g["momentum"], g["nesterov"]) for g in made.param_groups} == {(0.9, True)}
    (made,) = optimisers(network("cnn"), recipe(momentum=0.0))
    assert {(g["momentum"], g["nesterov"]) for g in made.param_groups} == {(0.0, False)}


def test_fast_uses_airbenchs_rates():
    """If this fails, `fast` with Muon has not the rates that its recipe was measured with."""
    net = network("fast", 32, 3)
    chosen = recipe(
        optimizer="muon", lr=0.24, momentum=0.6, weight_decay=2e-6 * 2000, batch_size=2000, epochs=8
    )
    made = optimisers(net, chosen)
    where = groups_of(made)
    # airbench94_muon: SGD 0.67 for the head with its 1/9-scaled logits and 0.053 for biases, for
    # a loss summed over 2000 images; here the loss is a mean and the head sees features / 16.
    body = dict(net.body.named_parameters())
    assert where[body["stages.0.conv1.weight"]]["lr"] == pytest.approx(0.24)
    assert where[body["stages.0.norm1.bias"]]["lr"] == pytest.approx(0.053 * 2000)
    assert where[body["whiten.bias"]]["lr"] == pytest.approx(0.053 * 2000)
    assert where[net.head.weight]["lr"] == pytest.approx(0.67 * 2000 / 256)
    for parameter in (net.head.weight, body["stages.0.norm1.bias"]):
        group = where[parameter]
        assert group["lr"] * group["weight_decay"] == pytest.approx(2e-6 * 2000)
        assert (group["momentum"], group["nesterov"]) == (0.85, True)
    assert where[body["stages.0.conv1.weight"]]["momentum"] == 0.6
    assert where[body["whiten.bias"]]["until"] == pytest.approx(3 / 8)


# --- schedules -----------------------------------------------------------------------------------


def curve(scheduler_of, steps: int) -> list[float]:
    """Rates that a torch scheduler gives at steps 0 .. steps, with a peak of one."""
    weight = torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([weight], lr=1.0)
    scheduler = scheduler_of(optimiser)
    rates = []
    for _ in range(steps + 1):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        scheduler.step()
    return rates


def test_cosine_is_torchs():
    """If this fails, `--schedule cosine` is not the cosine to zero."""
    theirs = curve(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 50), 50)
    ours = [factor(recipe(schedule="cosine"), s / 50) for s in range(51)]
    assert ours == pytest.approx(theirs, abs=1e-9)


@pytest.mark.parametrize("power", [1.0, 2.0, 0.5])
def test_polynomial_is_torchs(power):
    """If this fails, `--schedule polynomial --power p` is not (1 − progress)^p."""
    theirs = curve(lambda o: torch.optim.lr_scheduler.PolynomialLR(o, 40, power), 40)
    ours = [factor(recipe(schedule="polynomial", power=power), s / 40) for s in range(41)]
    assert ours == pytest.approx(theirs, abs=1e-6)


def test_step_is_torchs_multistep():
    """If this fails, `--schedule step` drops elsewhere, or by another factor."""
    theirs = curve(lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [16, 24], 0.2), 32)
    chosen = recipe(schedule="step", step_at=(0.5, 0.75), step_factor=0.2)
    assert [factor(chosen, s / 32) for s in range(33)] == pytest.approx(theirs)
    # The paper's ResNet-56: 64k steps, divided by ten at 32k and 48k.
    chosen = recipe(schedule="step")
    assert [factor(chosen, s / 64) for s in (0, 31, 32, 47, 48, 64)] == pytest.approx(
        [1, 1, 0.1, 0.1, 0.01, 0.01]
    )


@pytest.mark.parametrize("share", [0.3, 0.1])
def test_one_cycle_is_torchs(share):
    """If this fails, `--schedule one-cycle` is not OneCycleLR's two cosines."""
    total = 100
    theirs = curve(
        lambda o: torch.optim.lr_scheduler.OneCycleLR(
            o, max_lr=1.0, total_steps=total, pct_start=share
        ),
        total - 2,
    )
    chosen = recipe(schedule="one-cycle", warmup=share)
    top, end = share * total - 1, total - 1  # torch's last steps of the two halves
    for step, rate in enumerate(theirs):
        if step <= top:
            progress = share * step / top
        else:
            progress = share + (1 - share) * (step - top) / (end - top)
        assert factor(chosen, progress) == pytest.approx(rate, abs=1e-6), step
    assert factor(chosen, 1.0) == pytest.approx(1 / 250_000)
    assert factor(chosen, 0.0) == pytest.approx(1 / 25)
    assert factor(recipe(schedule="one-cycle", warmup=0.0), 0.0) == 1.0


@few
@given(
    schedule=st.sampled_from(["constant", "polynomial", "cosine", "one-cycle", "step"]),
    warmup=st.floats(0, 0.9),
    progress=st.floats(0, 1),
)
def test_every_schedule_stays_between_zero_and_one(schedule, warmup, progress):
    """If this fails, a rate turns negative, complex or larger than its peak."""
    value = factor(recipe(schedule=schedule, warmup=warmup), progress)
    assert isinstance(value, float)
    assert 0 <= value <= 1 + 1e-12


@pytest.mark.parametrize("schedule", ["constant", "polynomial", "cosine", "step"])
def test_warmup_is_linear_from_zero(schedule):
    """If this fails, the first steps are taken at full rate despite --warmup."""
    chosen = recipe(schedule=schedule, warmup=0.2)
    assert [factor(chosen, p) for p in (0, 0.05, 0.1, 0.15)] == pytest.approx([0, 0.25, 0.5, 0.75])
    assert factor(chosen, 0.2) == pytest.approx(1)


def test_set_rates_takes_the_middle_of_a_step():
    """If this fails, the first or last step is spent at rate zero, or groups lose their ratio."""
    net = network("cnn")
    chosen = recipe(schedule="cosine", finetune=True, lr=0.1)
    made = optimisers(net, chosen)
    said = [set_rates(made, chosen, s, 4) for s in range(4)]
    wanted = [0.1 * (1 + math.cos(math.pi * (s + 0.5) / 4)) / 2 for s in range(4)]
    assert said == pytest.approx(wanted)
    where = groups_of(made)
    assert where[net.head.bias]["lr"] == pytest.approx(wanted[-1])
    body = next(net.body.parameters())
    assert where[body]["lr"] == pytest.approx(wanted[-1] * LOWEST)


def test_the_whitening_bias_stands_still_after_three_epochs():
    """If this fails, `fast` pays for its first layer's gradients to the end, or has none."""
    net = network("fast")
    chosen = recipe(optimizer="muon", schedule="polynomial", epochs=6)
    made = optimisers(net, chosen)
    bias = net.body.whiten.bias
    rates = []
    for step in range(60):
        set_rates(made, chosen, step, 60)
        rates.append(groups_of(made)[bias]["lr"])
        assert bias.requires_grad == (step < 30)
    assert rates[0] > rates[15] > rates[29] > 0
    assert set(rates[30:]) == {0.0}
    # Shorter than three epochs: it learns to the end.
    net = network("fast")
    chosen = recipe(optimizer="muon", schedule="polynomial", epochs=2)
    made = optimisers(net, chosen)
    for step in range(20):
        set_rates(made, chosen, step, 20)
    assert net.body.whiten.bias.requires_grad


# --- memory --------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "muon"])
@pytest.mark.parametrize("model", ["cnn", "fast"])
def test_state_tensors_round_trip_gives_identical_steps(model, optimizer):
    """If this fails, a resumed run forgets momentum and ends elsewhere."""
    images = torch.randint(0, 256, (8, 1, 16, 16), generator=torch.Generator().manual_seed(0))
    chosen = recipe(optimizer=optimizer, lr=0.01, epochs=5)

    def advance(net, made, first, last):
        for step in range(first, last):
            set_rates(made, chosen, step, 10)
            with torch.random.fork_rng():
                torch.manual_seed(step)
                net.train()(images).square().mean().backward()
            for optimiser in made:
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)

    net = network(model).to(memory_format=torch.channels_last)
    made = optimisers(net, chosen)
    advance(net, made, 0, 7)
    kept = {k: v.clone() for k, v in state_tensors(made).items()}
    weights = copy.deepcopy(net.state_dict())
    assert kept
    assert all(isinstance(v, torch.Tensor) for v in kept.values())
    advance(net, made, 7, 10)

    again = network(model).to(memory_format=torch.channels_last)
    fresh = optimisers(again, chosen)
    again.load_state_dict(weights)
    # Strangers' tensors in the same file must not disturb.
    load_state_tensors(fresh, {"model.x": torch.zeros(1), **kept})
    advance(again, fresh, 7, 10)
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_state_tensors_of_ten_and_more_parameters_keep_their_places():
    """If this fails, places 1 and 10, or optimisers 1 and 11, are mixed up by their names."""
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(12)]
    made = [torch.optim.SGD([{"params": weights}], lr=0.1, momentum=0.9)]
    for i, weight in enumerate(weights):
        weight.grad = torch.full((1,), float(i))
    made[0].step()
    kept = state_tensors(made)
    other = [torch.optim.SGD([{"params": weights}], lr=0.1, momentum=0.9)]
    load_state_tensors(other, kept)
    for i, weight in enumerate(weights):
        assert other[0].state[weight]["momentum_buffer"].item() == i
