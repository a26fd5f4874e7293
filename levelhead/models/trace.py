"""One pass of a network, from inside: its layers in order, and what each sees of the image."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

Sides = tuple[float, float]
"""Height and width."""


@dataclass(frozen=True)
class Field:
    """The receptive field of a unit, px: its sides, and how far those of neighbours lie apart.

    start: where the middle of the first unit's field lies (the first pixel's is 0). axes: which
    axes of the tensor are height and width. Fields of units near the border reach over it.
    """

    size: Sides = (1.0, 1.0)
    step: Sides = (1.0, 1.0)
    start: Sides = (0.0, 0.0)
    axes: tuple[int, int] = (2, 3)

    def widened(
        self,
        kernel: Sequence[float],
        stride: Sequence[float] = (1, 1),
        padding: Sequence[float] = (0, 0),
    ) -> Field:
        """After a window of `kernel` positions that moves by `stride`, with so much padding.

        Source: Araujo et al. 2019, "Computing receptive fields of convolutional neural networks",
        equations 1 to 3.
        """
        size, step, start = [], [], []
        for axis in range(2):
            k, jump = kernel[axis], self.step[axis]
            size.append(self.size[axis] + (k - 1) * jump)
            step.append(jump * stride[axis])
            start.append(self.start[axis] + ((k - 1) / 2 - padding[axis]) * jump)
        return Field((size[0], size[1]), (step[0], step[1]), (start[0], start[1]), self.axes)

    def box(self, row: int, column: int) -> tuple[float, float, float, float]:
        """First and last row, first and last column that the unit of that place sees."""
        middle = [s + i * d for s, i, d in zip(self.start, (row, column), self.step, strict=True)]
        half = [(side - 1) / 2 for side in self.size]
        return middle[0] - half[0], middle[0] + half[0], middle[1] - half[1], middle[1] + half[1]


@dataclass
class Call:
    """A layer, or a function between layers: what came out, what it took.

    path: of the module (of the enclosing one for a function). `module` is None for a function.
    shape: of the first output. macs: multiplications with an addition each.
    """

    path: str
    module: nn.Module | None
    name: str
    shape: tuple[int, ...] = ()
    macs: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    field: Field | None = None


def trace(body: nn.Module, images: Tensor) -> list[Call]:
    """Every layer that `body` calls on images [B,C,H,W], in order, with functions between them.

    In evaluation mode; the body is left as it was.
    """
    modes = [(module, module.training) for module in body.modules()]
    recorder = _Recorder(images)
    try:
        body.eval()
        with _watched(body, recorder), recorder:
            body(images)
    finally:
        for module, training in modes:
            module.training = training
    return recorder.calls


@contextmanager
def _watched(body: nn.Module, recorder: _Recorder) -> Iterator[None]:
    """Let the recorder know where it is."""
    with ExitStack() as stack:
        for path, module in body.named_modules():
            leaf = not any(True for _ in module.children())

            def enter(module: nn.Module, inputs: Any, path: str = path, leaf: bool = leaf) -> None:
                recorder.enter(path, module, leaf)

            def leave(module: nn.Module, inputs: Any, output: Any) -> None:
                recorder.leave(inputs, output)

            for handle in (
                module.register_forward_pre_hook(enter),
                module.register_forward_hook(leave),
            ):
                stack.callback(handle.remove)
        yield


class _Recorder(TorchDispatchMode):
    """Sees every operation of a pass, and follows the field of every tensor through them."""

    def __init__(self, images: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[Call] = []
        self.fields: dict[int, Field] = {id(images): Field()}
        self.active = {id(images)}  # what hangs on the images, weights do not
        self.alive: list[Any] = [images]  # an id is of a tensor that lives
        self.open: list[tuple[str, Call | None]] = []  # modules entered; the call of a leaf

    def enter(self, path: str, module: nn.Module, leaf: bool) -> None:
        """A module begins."""
        call = Call(path, module, type(module).__name__) if leaf else None
        self.open.append((path, call))

    def leave(self, inputs: Any, output: Any) -> None:
        """The module that began last ends."""
        _, call = self.open.pop()
        if call is None:
            return
        out, source = _first(output), _first(inputs)
        if out is not None:
            call.shape = tuple(out.shape)
            # A dense layer or a norm of the last axis works out views of its own.
            same = source is not None and source.shape[:-1] == out.shape[:-1]
            at = self.fields.get(id(source)) if same and id(out) not in self.fields else None
            if at is not None and 3 not in at.axes:
                self._keep(out, at)
            call.field = self.fields.get(id(out))
        self.calls.append(call)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        tensors = [t for t in _flat(args) if isinstance(t, Tensor)]
        out = _first(result)
        if out is None:
            return result
        macs = MACS[name](args, out) if name in MACS else 0
        field = self._field_of(name, args, tensors, out)
        if field is not None:
            self._keep(out, field)
        path, leaf = self.open[-1] if self.open else ("", None)
        if leaf is not None:
            leaf.macs += macs
            leaf.options |= _options(name, args)
        elif macs or (name.rstrip("_") in FUNCTIONS and self._joins(name, tensors)):
            title = FUNCTIONS.get(name.rstrip("_"), name)
            options = _options(name, args)
            self.calls.append(Call(path, None, title, tuple(out.shape), macs, options, field))
        return result

    def _joins(self, name: str, tensors: list[Tensor]) -> bool:
        """Whether a sum is one of two branches, not of a branch and a number or weight."""
        return name.rstrip("_") != "add" or sum(id(t) in self.active for t in tensors) > 1

    def _keep(self, tensor: Tensor, field: Field) -> None:
        self.fields[id(tensor)] = field
        self.alive.append(tensor)

    def _field_of(self, name: str, args: Any, tensors: list[Tensor], out: Tensor) -> Field | None:
        """The field of the units of an operation's output; None where it cannot be said."""
        known = [(t, self.fields[id(t)]) for t in tensors if id(t) in self.fields]
        if any(id(t) in self.active for t in tensors):
            self.active.add(id(out))
            self.alive.append(out)
        if not known or any(id(t) in self.active and id(t) not in self.fields for t in tensors):
            return None
        if name in RULES:
            return RULES[name](known[0][1], args, tensors[0], out)
        if name in ("bmm", "mm", "baddbmm") or not any(_same_places(t, out, f) for t, f in known):
            return None
        # Place by place: each unit sees what any of its inputs sees.
        base = next(f for t, f in known if _same_places(t, out, f))
        if any(f.axes != base.axes for t, f in known if t.dim() == out.dim()):
            return None
        widest = max((f for _, f in known), key=lambda f: f.size[0] * f.size[1])
        sides = [max(f.size[i] for _, f in known) for i in range(2)]
        start = widest.start if widest.step == base.step else base.start
        return replace(base, size=(sides[0], sides[1]), start=start)


def _same_places(tensor: Tensor, out: Tensor, field: Field) -> bool:
    return tensor.dim() == out.dim() and all(
        axis >= out.dim() or tensor.shape[axis] == out.shape[axis] for axis in field.axes
    )


def _window(field: Field, args: Any, source: Tensor, out: Tensor) -> Field | None:
    """A convolution."""
    _, weight, _, stride, padding, dilation, transposed, *_ = args
    if transposed or weight.dim() != 4 or field.axes != (2, 3):
        return None
    kernel = [(k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilation, strict=True)]
    return field.widened(kernel, stride, padding)


def _pooling(field: Field, args: Any, source: Tensor, out: Tensor) -> Field | None:
    kernel, stride = _pooling_of(args)
    dilation = args[4] if len(args) > 4 and isinstance(args[4], list | tuple) else (1, 1)
    wide = [(k - 1) * d + 1 for k, d in zip(kernel, _two(dilation), strict=True)]
    padding = _two(args[3]) if len(args) > 3 else (0, 0)
    return field.widened(wide, stride, padding) if field.axes == (2, 3) else None


def _adaptive(field: Field, args: Any, source: Tensor, out: Tensor) -> Field | None:
    pairs = [(source.shape[a], out.shape[a]) for a in (2, 3)]
    return field.widened([-(-n // m) for n, m in pairs], [n / m for n, m in pairs])


def _averaged(field: Field, args: Any, source: Tensor, out: Tensor) -> Field | None:
    """A mean or maximum over axes: over both sides, or over others."""
    axes = args[1] if len(args) > 1 and isinstance(args[1], list | tuple) else [args[1]]
    over = {axis % source.dim() for axis in axes}
    kept = out.dim() == source.dim()
    if not over & set(field.axes):
        return field if kept else None
    if not set(field.axes) <= over:
        return None
    whole = field.widened([source.shape[axis] for axis in field.axes])
    return whole if kept else replace(whole, axes=(2, 3))


def _flattened(field: Field, args: Any, source: Tensor, out: Tensor) -> Field | None:
    """A view: of everything in one row, or of the same shape."""
    if source.shape == out.shape:
        return field
    if source.dim() == 4 and out.dim() == 2 and out.shape[0] == source.shape[0]:
        whole = field.widened([source.shape[axis] for axis in field.axes])
        return replace(whole, axes=(2, 3))
    return None


def _permuted(field: Field, args: Any, source: Tensor, out: Tensor) -> Field | None:
    order = [axis % source.dim() for axis in args[1]]
    return replace(field, axes=(order.index(field.axes[0]), order.index(field.axes[1])))


def _sliced(field: Field, args: Any, source: Tensor, out: Tensor) -> Field | None:
    axis = args[1] if len(args) > 1 else 0
    first = args[2] if len(args) > 2 and args[2] else 0
    by = args[4] if len(args) > 4 else 1
    here = [a == axis % source.dim() for a in field.axes]
    step = [d * by if at else d for at, d in zip(here, field.step, strict=True)]
    start = [
        s + first * d if at else s for at, s, d in zip(here, field.start, field.step, strict=True)
    ]
    return replace(field, step=(step[0], step[1]), start=(start[0], start[1]))


def _padded(field: Field, args: Any, source: Tensor, out: Tensor) -> Field | None:
    pads = dict(zip(range(source.dim() - 1, -1, -1), args[1][::2], strict=False))
    start = [
        s - pads.get(a, 0) * d for a, s, d in zip(field.axes, field.start, field.step, strict=True)
    ]
    return replace(field, start=(start[0], start[1]))


def _dense(field: Field, args: Any, source: Tensor, out: Tensor) -> Field | None:
    """addmm(bias, rows, weight): of rows that have no sides any more."""
    return field


RULES: dict[str, Callable[[Field, Any, Tensor, Tensor], Field | None]] = {
    "convolution": _window,
    "max_pool2d_with_indices": _pooling,
    "avg_pool2d": _pooling,
    "_adaptive_avg_pool2d": _adaptive,
    "adaptive_max_pool2d": _adaptive,
    "mean": _averaged,
    "amax": _averaged,
    "view": _flattened,
    "_unsafe_view": _flattened,
    "reshape": _flattened,
    "permute": _permuted,
    "slice": _sliced,
    "constant_pad_nd": _padded,
    "addmm": _dense,
}


def _matrices(args: Any, out: Tensor) -> int:
    left, right = [t for t in args if isinstance(t, Tensor)][-2:]
    return left.numel() * int(right.shape[-1])


def _convolution(args: Any, out: Tensor) -> int:
    return out.numel() * int(math.prod(args[1].shape[1:]))


def _attention(args: Any, out: Tensor) -> int:
    query, key, value = args[:3]
    pairs = query.shape[:-1].numel() * key.shape[-2]
    return int(pairs * (query.shape[-1] + value.shape[-1]))


MACS: dict[str, Callable[[Any, Tensor], int]] = {
    "convolution": _convolution,
    "addmm": _matrices,
    "mm": _matrices,
    "bmm": _matrices,
    "baddbmm": _matrices,
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
    "_scaled_dot_product_flash_attention": _attention,
    "_scaled_dot_product_efficient_attention": _attention,
    "_scaled_dot_product_cudnn_attention": _attention,
}
"""Multiply-accumulates of the operations that have any: of matrices, convolutions, attention."""
FUNCTIONS = {
    "max_pool2d_with_indices": "max pooling",
    "avg_pool2d": "average pooling",
    "_adaptive_avg_pool2d": "average pooling",
    "adaptive_max_pool2d": "max pooling",
    "relu": "ReLU",
    "gelu": "GELU",
    "silu": "SiLU",
    "hardswish": "hard swish",
    "sigmoid": "sigmoid",
    "add": "sum of branches",
    "cat": "concatenation",
    "constant_pad_nd": "padding",
    "_scaled_dot_product_flash_attention_for_cpu": "attention",
    "addmm": "matrix product",
    "mm": "matrix product",
    "bmm": "matrix product",
    "convolution": "convolution",
}
"""Functions between layers that get a row, and what they are called."""


def _options(name: str, args: Any) -> dict[str, Any]:
    """How a window moves: what it moves over (some pad it first), kernel, stride, padding."""
    if name == "convolution":
        return {
            "before": tuple(args[0].shape),
            "kernel": tuple(args[1].shape[2:]),
            "stride": tuple(args[3]),
            "padding": tuple(args[4]),
            "dilation": tuple(args[5]),
            "groups": args[8],
        }
    if name in ("max_pool2d_with_indices", "avg_pool2d"):
        kernel, stride = _pooling_of(args)
        place = 5 if name.startswith("max") else 4
        return {
            "before": tuple(args[0].shape),
            "kernel": kernel,
            "stride": stride,
            "padding": _two(args[3]) if len(args) > 3 else (0, 0),
            "ceiling": bool(args[place]) if len(args) > place else False,
        }
    return {}


def _pooling_of(args: Any) -> tuple[tuple[int, int], tuple[int, int]]:
    kernel = _two(args[1])
    return kernel, (_two(args[2]) if len(args) > 2 and args[2] else kernel)


def _two(value: Any) -> tuple[int, int]:
    values = [value] if isinstance(value, int) else list(value)
    return values[0], values[-1]


def _flat(values: Any) -> Iterator[Any]:
    for value in values:
        if isinstance(value, list | tuple):
            yield from _flat(value)
        else:
            yield value


def _first(value: Any) -> Tensor | None:
    if isinstance(value, Tensor):
        return value
    if isinstance(value, list | tuple):
        return next((t for t in _flat(value) if isinstance(t, Tensor)), None)
    return None
