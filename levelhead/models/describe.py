"""What a network is made of: a row a layer, its parameters, shape, arithmetic, what it sees."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from levelhead.files import write_json
from levelhead.models import find_model
from levelhead.models.network import Network, Shape
from levelhead.models.trace import Call, Field, trace
from levelhead.text import columns, count

KINDS: dict[type[nn.Module], str] = {
    nn.Conv2d: "convolution",
    nn.Linear: "dense",
    nn.BatchNorm2d: "batch norm",
    nn.BatchNorm1d: "batch norm",
    nn.LayerNorm: "layer norm",
    nn.GroupNorm: "group norm",
    nn.MaxPool2d: "max pooling",
    nn.AvgPool2d: "average pooling",
    nn.AdaptiveAvgPool2d: "average pooling",
    nn.AdaptiveMaxPool2d: "max pooling",
    nn.ReLU: "ReLU",
    nn.ReLU6: "ReLU6",
    nn.GELU: "GELU",
    nn.SiLU: "SiLU",
    nn.Hardswish: "hard swish",
    nn.Sigmoid: "sigmoid",
    nn.Dropout: "dropout",
    nn.Flatten: "flatten",
}
"""What layers are called; others by the name of their class."""
BYTES = 4  # of a float32


@dataclass(frozen=True)
class Layer:
    """One row.

    path: of the module in the body (`head` is the head); block: of the module that it belongs to.
    shape: of its output, without the batch. parameters: all its numbers, those that move with the
    data (batch norm) too; trained: those that training changes. macs: multiply-accumulates of one
    image. field, step: the sides of what a unit sees, px, and of the distance between neighbours
    (None where that is not a window). bytes: its output in float32, of the whole batch.
    """

    path: str
    block: str
    kind: str
    shape: tuple[int, ...]
    shape_rule: str
    parameters: int
    trained: int
    formula: str
    macs: int
    field: tuple[float, float] | None
    step: tuple[float, float] | None
    start: tuple[float, float] | None
    bytes: int


@dataclass(frozen=True)
class Description:
    """A network in rows, and their totals; `save` writes description.json."""

    model: str
    image_size: int
    channels: int
    classes: int
    batch_size: int
    layers: tuple[Layer, ...]
    auxiliary: int  # parameters of heads that only training uses, in no total

    @property
    def trained(self) -> int:
        """Parameters that training changes."""
        return sum(layer.trained for layer in self.layers)

    @property
    def parameters(self) -> int:
        """All numbers of the network."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image."""
        return sum(layer.macs for layer in self.layers)

    @property
    def bytes(self) -> int:
        """Outputs of all layers in float32, of the whole batch."""
        return sum(layer.bytes for layer in self.layers)

    @property
    def words(self) -> tuple[str, ...]:
        """What it comes to, in sentences."""
        colours = {1: "grey", 3: "colour"}.get(self.channels, f"{self.channels} channels")
        still = self.parameters - self.trained
        lines = [
            f"{self.model} for images of {self.image_size} px ({colours}) and "
            f"{count(self.classes, 'class')}: {self.trained:,} trained parameters"
            + (f", {still:,} that are not trained." if still else "."),
            f"{size_of(self.macs)} multiply-accumulates an image (about three times that to train "
            f"on it). Outputs of all layers, float32, batch of {self.batch_size:,}: "
            f"{self.bytes / 1e6:,.1f} MB; weights {self.parameters * BYTES / 1e6:,.1f} MB.",
        ]
        if self.auxiliary:
            lines.append(
                f"In training alone: auxiliary heads of {self.auxiliary:,} parameters, not counted "
                "above."
            )
        if (field := self.layers[-1].field) is not None:
            wide = max(field)
            more = "more than the image" if wide > self.image_size else f"of {self.image_size}"
            lines.append(f"A feature sees {sides(field)} px at most, {more}.")
        return tuple(lines)

    def table(self, *, blocks: bool = False) -> str:
        """The rows as plain text; `blocks`: one row for each block."""
        rows = []
        for layer in merged(self.layers) if blocks else self.layers:
            rows.append(
                [
                    (layer.block if blocks else layer.path) or "(body)",
                    layer.kind,
                    "×".join(map(str, layer.shape)),
                    f"{layer.parameters:,}" if layer.parameters else "0",
                    size_of(layer.macs) if layer.macs else "0",
                    "–" if layer.field is None else sides(layer.field),
                    "–" if layer.step is None else sides(layer.step),
                    f"{layer.bytes / 1e6:.2f}",
                    layer.formula,
                ]
            )
        header = ["layer", "kind", "output", "parameters", "MACs", "sees", "step", "MB", "formula"]
        for left in (1, len(header) - 1):
            width = max(len(row[left]) for row in [header, *rows])
            for row in [header, *rows]:
                row[left] = row[left].ljust(width)
        return columns(header, rows)

    def to_json(self) -> dict[str, Any]:
        """Everything, with totals, and the rows of blocks."""
        totals = {
            "parameters": self.parameters,
            "trained": self.trained,
            "auxiliary": self.auxiliary,
            "macs": self.macs,
            "activation_bytes": self.bytes,
        }
        names = ("model", "image_size", "channels", "classes", "batch_size")
        return {
            **{name: getattr(self, name) for name in names},
            "totals": totals,
            "layers": [dataclasses.asdict(layer) for layer in self.layers],
            "blocks": [dataclasses.asdict(layer) for layer in merged(self.layers)],
            "words": list(self.words),
        }

    def save(self, folder: str | Path) -> None:
        """Write description.json into the folder."""
        write_json(Path(folder) / "description.json", self.to_json())


def describe(
    model: str,
    *,
    image_size: int | None = None,
    classes: int = 10,
    channels: int = 3,
    batch_size: int = 1,
    width: int | None = None,
    pretrained: bool = False,
) -> Description:
    """The layers of a model by name, for images of a side (default: its own). Nothing is trained.

    Raises LevelheadError for an unknown name, and for images that it does not take.
    """
    from levelhead.models import build

    entry = find_model(model)
    if image_size is None:
        large = entry.weights == "download" and entry.larger is None
        image_size = entry.size(224, True) if large or pretrained else entry.size(32, False)
    shape = Shape(channels, image_size, classes, width)
    zeros = torch.zeros(channels)
    network = build(model, shape, mean=zeros, std=zeros + 1, pretrained=pretrained)
    return describe_network(network, shape, model=model, batch_size=batch_size)


def describe_network(
    network: Network, shape: Shape, *, model: str = "network", batch_size: int = 1
) -> Description:
    """The layers of a network that was built for `shape`; its weights do not matter."""
    images = torch.zeros(1, shape.channels, shape.size, shape.size, device=network.device)
    calls = trace(network.body, network.standardise(images).float())
    rows = list(_rows(network, calls, batch_size))
    head = network.head
    width = head.in_features
    features = next((row for row in reversed(rows) if row.shape), None)
    rows.append(
        Layer(
            "head",
            "head",
            "dense",
            (head.out_features,),
            "",
            *_parameters(head),
            width * head.out_features,
            features.field if features and math.prod(features.shape) == width else None,
            None,
            None,
            BYTES * head.out_features * batch_size,
        )
    )
    skip = network.hooks.training_only
    auxiliary = sum(
        parameter.numel()
        for name, parameter in network.body.named_parameters()
        if skip and name.startswith(skip)
    )
    sizes = shape.size, shape.channels, shape.classes
    return Description(model, *sizes, batch_size, tuple(rows), auxiliary)


def _rows(network: Network, calls: Sequence[Call], batch_size: int) -> Iterator[Layer]:
    """A row a call; numbers that belong to no layer called come after what they belong to."""
    body, counted = network.body, set[int]()
    modules = dict(body.named_modules())
    skip = network.hooks.training_only
    after: dict[int, list[str]] = {}  # modules with numbers of their own, by the call before them
    leaves = {call.path for call in calls if call.module is not None}
    for path, module in modules.items():
        own = any(True for _ in module.parameters(recurse=False))
        if not own or path in leaves or (skip and f"{path}.".startswith(skip)):
            continue
        inside = path
        while inside and not any(_within(call.path, inside) for call in calls):
            inside = inside.rpartition(".")[0]
        last = max(i for i, call in enumerate(calls) if _within(call.path, inside))
        after.setdefault(last, []).append(path)
    for i, call in enumerate(calls):
        if not isinstance(call.module, nn.Identity):
            yield _layer(call, _block(call.path, modules), batch_size, counted)
        for path in after.get(i, ()):
            rest = Call(path, modules[path], "", shape=())
            yield _layer(rest, _block(path, modules), batch_size, counted, alone=True)


def _within(path: str, parent: str) -> bool:
    return not parent or path == parent or path.startswith(f"{parent}.")


def _layer(
    call: Call, block: str, batch_size: int, counted: set[int], *, alone: bool = False
) -> Layer:
    """The row of a call. Numbers that stood in a row before are not counted again."""
    module = call.module
    parameters, trained, formula = 0, 0, ""
    if module is not None:
        if id(module) in counted:
            formula = "the same weights again" if any(True for _ in module.parameters()) else ""
        else:
            counted.add(id(module))
            parameters, trained, formula = _parameters(module)
    kind = call.name
    if module is not None:
        kind = next((k for t, k in KINDS.items() if isinstance(module, t)), type(module).__name__)
    if alone and not isinstance(module, nn.Linear | nn.Conv2d):
        kind = f"{type(module).__name__}'s own"
    field, shape = call.field, call.shape[1:]
    view = kind in ("flatten", "dropout") or getattr(module, "inplace", False)
    return Layer(
        call.path,
        block,
        kind + _window(call.options),
        shape,
        _rule(call),
        parameters,
        trained,
        formula,
        call.macs,
        None if field is None else field.size,
        None if field is None or len(shape) < 3 else field.step,
        None if field is None else field.start,
        0 if view else BYTES * math.prod(shape) * batch_size if shape else 0,
    )


def _parameters(module: nn.Module) -> tuple[int, int, str]:
    """All numbers of a module, those that are trained, and how they are counted."""
    own = list(module.parameters(recurse=False))
    trained = sum(p.numel() for p in own if p.requires_grad)
    total = sum(p.numel() for p in own)
    formula = ""
    if isinstance(module, nn.Conv2d):
        high, wide = module.kernel_size
        inputs = module.in_channels // module.groups
        bias = " + 1" if module.bias is not None else ""
        formula = f"{module.out_channels}·({high}·{wide}·{inputs}{bias})"
    elif isinstance(module, nn.Linear):
        bias = " + 1" if module.bias is not None else ""
        formula = f"{module.out_features}·({module.in_features}{bias})"
    elif isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
        width = module.num_features
        total += 2 * width if module.track_running_stats else 0
        formula = f"{total // width}·{width}, {trained // width}·{width} trained"
    elif own:
        formula = " + ".join("·".join(map(str, p.shape)) or "1" for p in own)
    if own and not trained:
        formula += ", not trained"
    return total, trained, formula


def _window(options: dict[str, Any]) -> str:
    """Kernel and stride as text."""
    if "kernel" not in options:
        return ""
    text = " " + "×".join(map(str, options["kernel"]))
    if set(options["stride"]) != {1}:
        text += f" /{options['stride'][0]}"
    groups = options.get("groups", 1)
    return text + (f", {groups} groups" if groups > 1 else "")


def _rule(call: Call) -> str:
    """How the output's side follows from the input's, with the numbers filled in."""
    options = call.options
    if "kernel" not in options or len(options["before"]) != 4 or len(call.shape) != 4:
        return ""
    texts = []
    for axis in range(2):
        side, kernel = options["before"][2 + axis], options["kernel"][axis]
        stride, padding = options["stride"][axis], options["padding"][axis]
        reach = options.get("dilation", (1, 1))[axis]
        width = f"{kernel}" if reach == 1 else f"({reach}·({kernel} − 1) + 1)"
        first, last = ("⌈", "⌉") if options.get("ceiling") else ("⌊", "⌋")
        inside = f"({side} + 2·{padding} − {width})/{stride}"
        texts.append(f"{first}{inside}{last} + 1 = {call.shape[2 + axis]}")
    return texts[0] if texts[0] == texts[1] else " and ".join(texts)


def _block(path: str, modules: dict[str, nn.Module]) -> str:
    """The first module on the way down that is more than a row of others."""
    parts = path.split(".")
    for end in range(1, len(parts)):
        prefix = ".".join(parts[:end])
        # Somebody else's whole network stands under this name (`Borrowed`).
        if not _holds_others(modules[prefix]) and parts[end - 1] != "net":
            return prefix
    return path


def _holds_others(module: nn.Module) -> bool:
    """Whether a module is no more than a row of others, or wraps one that is not a row."""
    containers = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
    inside = list(module.children())
    alone = len(inside) == 1 and any(True for _ in inside[0].children())
    return type(module) in containers or alone


def merged(layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """Rows of a block that follow each other in one: what comes out last, and the sums."""
    rows = []
    for block, run in itertools.groupby(layers, key=lambda layer: layer.block):
        inside = list(run)
        last = next((row for row in reversed(inside) if row.shape), inside[-1])
        rows.append(
            dataclasses.replace(
                last,
                path=block if len(inside) > 1 else last.path,
                kind=last.kind if len(inside) == 1 else count(len(inside), "layer"),
                shape_rule="",
                formula=inside[0].formula if len(inside) == 1 else "",
                parameters=sum(row.parameters for row in inside),
                trained=sum(row.trained for row in inside),
                macs=sum(row.macs for row in inside),
                bytes=sum(row.bytes for row in inside),
            )
        )
    return tuple(rows)


def sides(pair: tuple[float, float]) -> str:
    """Two sides as one number where they are equal."""
    high, wide = (f"{side:.4g}" for side in pair)
    return high if high == wide else f"{high}×{wide}"


def size_of(number: int) -> str:
    """A large count in short.

    >>> size_of(555_422_720), size_of(1_337_131_008), size_of(30_720)
    ('555 M', '1.34 G', '30.7 k')
    """
    for unit, letter in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= unit:
            return f"{number / unit:.3g}{letter}"
    return str(number)


__all__ = ["Description", "Field", "Layer", "describe", "describe_network"]
