"""describe agrees with torchinfo, with torch's counter of operations, and with gradients."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from levelhead.cli import run as cli
from levelhead.models import MODELS, Network, Shape, build
from levelhead.models.borrowed import Borrowed
from levelhead.models.describe import Description, describe, describe_network, merged
from levelhead.models.trace import trace
from levelhead.representation.receptive_field import effective_fields, side_of

SIZES = {
    **dict.fromkeys(MODELS, 32),
    "inception_v4": 96,
    "lecture_cnn": 64,
    "timm:convnext_atto": 64,
    "timm:vit_tiny_patch16_224": 224,
    "torchvision:densenet121": 64,
    "torchvision:efficientnet_b0": 64,
    "torchvision:googlenet": 64,
    "torchvision:mnasnet0_5": 64,
    "torchvision:shufflenet_v2_x0_5": 64,
    "torchvision:swin_t": 64,
    "torchvision:vit_b_16": 224,
}


@pytest.fixture(scope="module")
def networks() -> dict[str, tuple[Network, Description]]:
    """Every network once, and its description."""
    return {}


@pytest.fixture
def both(networks, request) -> tuple[str, Network, Description]:
    """A network and what describe says of it."""
    name = request.param
    if name not in networks:
        shape = Shape(3, SIZES[name], 10)
        network = build(name, shape, mean=torch.zeros(3), std=torch.ones(3)).eval()
        networks[name] = network, describe_network(network, shape, model=name)
    return name, *networks[name]


every = pytest.mark.parametrize("both", SIZES, indirect=True)


@every
def test_parameters_are_all_counted_once(both):
    """A total would leave out weights that no layer holds, or count shared ones twice."""
    _, network, description = both
    skip = network.hooks.training_only
    own = [
        (name, p)
        for name, p in network.named_parameters()
        if not (skip and name.removeprefix("body.").startswith(skip))
    ]
    assert description.trained == sum(p.numel() for _, p in own if p.requires_grad)
    still = sum(p.numel() for _, p in own if not p.requires_grad)
    running = sum(
        2 * module.num_features
        for name, module in network.named_modules()
        if isinstance(module, nn.BatchNorm2d)
        and not (skip and name.removeprefix("body.").startswith(skip))
    )
    assert description.parameters == description.trained + still + running
    aside = dict(network.named_parameters()).values()
    assert description.auxiliary == sum(p.numel() for p in aside) - sum(p.numel() for _, p in own)
    assert sum(row.macs for row in merged(description.layers)) == description.macs


@every
def test_arithmetic_is_torchs(both):
    """Multiply-accumulates would differ from an independent count of the same operations."""
    name, network, description = both
    size = SIZES[name]
    # With gradients: without, torch's attention is one operation that its counter does not know.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, size, size))
    assert 2 * description.macs == counter.get_total_flops()


@every
def test_layers_are_torchinfos(both):
    """Shapes, weights or arithmetic of a row would differ from another tool's."""
    torchinfo = pytest.importorskip("torchinfo")
    name, network, description = both
    size = SIZES[name]
    found = torchinfo.summary(
        network.body, input_size=(1, 3, size, size), verbose=0, mode="eval", depth=20
    )
    theirs: dict[str, list] = {}
    places = {id(module): path for path, module in network.body.named_modules()}
    for info in found.summary_list:
        theirs.setdefault(places[id(info.module)], []).append(info)
    checked = 0
    for row in description.layers[:-1]:
        module = network.body.get_submodule(row.path)
        if not isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d) or not row.shape:
            continue
        info = theirs[row.path][0]
        assert tuple(info.output_size[1:]) == row.shape
        running = 2 * module.num_features if isinstance(module, nn.BatchNorm2d) else 0
        if row.formula != "the same weights again":
            assert row.parameters == info.num_params + running
        if isinstance(module, nn.Conv2d):
            # torchinfo counts the additions of a bias, too.
            bias = 0 if module.bias is None else math.prod(row.shape)
            assert row.macs == info.macs - bias
        checked += 1
    assert checked or name == "linear"


@every
def test_formulas_and_rules_come_to_what_stands_beside_them(both):
    """A formula on the page would be decoration: other numbers than its row's."""
    _, _, description = both
    for row in description.layers:
        if row.kind.startswith(("convolution", "dense")) and row.formula[:1].isdigit():
            formula = row.formula.removesuffix(", not trained").replace("·", "*")
            assert eval(formula) == row.parameters
        if row.shape_rule:
            for rule, side in zip(row.shape_rule.split(" and "), row.shape[1:], strict=False):
                left, right = rule.replace("·", "*").replace("−", "-").split(" = ")
                end = "math.ceil" if "⌈" in left else "math.floor"
                left = left.replace("⌊", f"{end}(").replace("⌈", f"{end}(")
                left = left.replace("⌋", ")").replace("⌉", ")")
                value = eval(left)
                # With ⌈⌉ a window must begin inside of the image or its padding on the left.
                assert int(right) == side
                assert value in (side, side + 1) if "ceil" in end else value == side


class Positive(nn.Module):
    """A body whose gradients do not vanish: weights of one sign, means instead of maxima."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body
        for parameter in body.parameters():
            nn.init.constant_(parameter, 0.1)
        for path, module in list(body.named_modules()):
            window = ("kernel_size", "stride", "padding", "ceil_mode")
            if isinstance(module, nn.MaxPool2d):
                linear: nn.Module = nn.AvgPool2d(*(getattr(module, name) for name in window))
            elif isinstance(module, nn.ReLU6):
                linear = nn.Identity()
            else:
                continue
            parent, _, child = path.rpartition(".")
            setattr(body.get_submodule(parent) if parent else body, child, linear)


@pytest.mark.parametrize(
    "name",
    ["cnn", "lecture_cnn", "alexnet", "nin", "vgg16", "minigooglenet", "resnet20", "mobilenet"],
)
def test_a_field_is_where_the_gradient_is(name):
    """What a unit is said to see would be another window than the pixels that move it."""
    size = 96
    shape = Shape(3, 64, 5)
    body = build(name, shape, mean=torch.zeros(3), std=torch.ones(3)).body
    if name == "alexnet":
        body = body[1:]  # without its cut to the middle
    body = Positive(body).body.double().eval()
    spatial = body[:-3] if name in ("nin", "vgg16") else body
    images = torch.ones(1, 3, size, size, dtype=torch.float64, requires_grad=True)
    calls = [
        call
        for call in trace(spatial[: _last_spatial(spatial)], images)
        if call.field is not None and len(call.shape) == 4 and call.shape[2] > 1 and call.module
    ]
    for call in calls[:: max(1, len(calls) // 6)]:
        kept = []
        handle = spatial.get_submodule(call.path).register_forward_hook(
            lambda module, inputs, output, kept=kept: kept.append(output)
        )
        spatial[: _last_spatial(spatial)](images)
        handle.remove()
        row, column = (side // 2 for side in call.shape[2:])
        (slope,) = torch.autograd.grad(kept[0][0, :, row, column].sum(), images)
        rows = slope.abs().sum((0, 1, 3)).nonzero().flatten()
        columns = slope.abs().sum((0, 1, 2)).nonzero().flatten()
        top, bottom, left, right = call.field.box(row, column)
        assert (int(rows[0]), int(rows[-1])) == (max(0, top), min(size - 1, bottom)), call.path
        assert (int(columns[0]), int(columns[-1])) == (max(0, left), min(size - 1, right))


def _last_spatial(body: nn.Sequential) -> int:
    """How many layers come before the images are pooled whole."""
    ends = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Flatten)
    return next((i for i, layer in enumerate(body) if isinstance(layer, ends)), len(body))


def test_attention_and_windows_of_tokens_have_no_field():
    """A transformer's unit would be said to see a patch, where it sees the image."""
    for name in ("timm:vit_tiny_patch16_224", "torchvision:swin_t"):
        description = describe(name, image_size=224 if "vit" in name else 64)
        assert description.layers[-1].field is None
        assert not any("sees" in words for words in description.words)


def test_squeeze_and_excitation_sees_everything():
    """A branch that looks at the mean of a whole map would be forgotten."""
    description = describe("torchvision:efficientnet_b0", image_size=64)
    assert description.layers[-1].field[0] > 64


def test_a_pass_leaves_the_body_as_it_was():
    """Describing a network would change its running statistics, its mode, or leave hooks."""
    network = build("cnn", Shape(3, 32, 4), mean=torch.zeros(3), std=torch.ones(3)).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    describe_network(network, Shape(3, 32, 4))
    assert network.body.training
    assert all(torch.equal(before[name], t) for name, t in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())


def test_memory_goes_with_the_batch():
    """Memory would be that of one image, whatever the batch."""
    one, eight = (describe("cnn", batch_size=n) for n in (1, 8))
    assert eight.bytes == 8 * one.bytes
    assert eight.macs == one.macs
    assert one.layers[0].bytes == 4 * 32 * 32 * 32


def test_shared_layers_are_counted_once():
    """A layer that is used twice would count double."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x):
            return self.layer(self.layer(x)).mean((2, 3))

    network = Network(Borrowed(Twice(), 3), nn.Linear(3, 2), torch.zeros(3), torch.ones(3))
    description = describe_network(network, Shape(3, 8, 2))
    assert description.trained == 3 * (3 * 3 * 3 + 1) + 8
    assert description.layers[1].formula == "the same weights again"
    assert description.layers[0].macs == description.layers[1].macs > 0


def test_an_effective_field_is_a_share_of_a_window():
    """The drawn gradient would not add up, or lie outside of what the unit can see."""
    network = build("cnn", Shape(3, 32, 4), mean=torch.zeros(3), std=torch.ones(3))
    images = torch.rand(4, 3, 32, 32) * 255
    fields = effective_fields(network, images, ["0", "4", "12"])
    assert fields.keys() == {"0", "4"}  # 12 has no sides any more
    for field, side in ((fields["0"], 3), (fields["4"], 8)):
        assert field.shape == (32, 32)
        assert float(field.sum()) == pytest.approx(1, abs=1e-5)
        assert int((field.sum(0) > 0).sum()) <= side
    assert side_of(fields["0"]) <= 3
    assert network.training
    assert all(p.grad is None for p in network.parameters())


def test_the_command_prints_rows_json_and_a_page(tmp_path, capsys):
    """`levelhead describe` would print a table that its JSON and page do not share."""
    out = tmp_path / "page"
    assert cli(["describe", "lecture_cnn", "--classes", "3", "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "24·(5·5·16 + 1)" in text
    page = (out / "report.html").read_text()
    assert "24·(5·5·16 + 1)" in page
    assert page.count("<svg") >= 3
    stored = json.loads((out / "description.json").read_text())
    assert stored["totals"]["trained"] == describe("lecture_cnn", classes=3).trained
    assert cli(["describe", "resnet20", "--json", "--blocks"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["totals"]["trained"] == 269_722
    assert sum(row["trained"] for row in printed["blocks"]) == 269_722


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nope"], "--model nope: unknown"),
        (["vgg16", "--image-size", "28"], "needs images of 32 px or more, not 28"),
        (["cnn", "--classes", "1"], "--classes 1: must be 2 or more"),
        (["cnn", "--batch-size", "0"], "--batch-size 0: must be 1 or more"),
    ],
)
def test_bad_input_gets_one_line(words, message, capsys):
    """A slip would end in a traceback."""
    assert cli(["describe", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
