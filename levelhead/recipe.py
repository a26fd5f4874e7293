"""Recipe: everything that is needed to repeat a run, in one frozen dataclass.

The fields are the command-line flags and the keys of `recipe.toml`; each knob is written once,
here. `None` means "chosen for this model and this data" (`levelhead.training.defaults` chooses).
"""

from __future__ import annotations

import dataclasses
import json
import math
import shlex
import tomllib
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, Self

from levelhead.errors import LevelheadError, nearest
from levelhead.files import refuse_pipes

MOST_MOVED = {
    **{"shift": 1, "rotation": 180, "shear": 60, "perspective": 0.9, "scale": 1},
    **{"brightness": 1, "contrast": 1, "colour": 1, "pixel_noise": 1},
}
"""The largest strength of each move."""
OTHER_TASKS = "levelhead translate, resume and report know it"
Schedule = Literal["constant", "polynomial", "cosine", "one-cycle", "step", "inverse-sqrt"]


@dataclass(frozen=True)
class Settings:
    """What the recipes share: a field is a flag and a key of TOML; `data` is what is trained on."""

    data: str

    COMMAND = ""

    def replace(self, **changes: Any) -> Self:
        """The same settings with some fields changed."""
        return dataclasses.replace(self, **changes)

    def to_toml(self) -> str:
        """As TOML; fields that are None are left out."""
        lines = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None:
                value = list(value) if isinstance(value, tuple) else value
                # JSON's strings, numbers, booleans and flat lists are TOML's: no writer needed.
                text = json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
                lines.append(f"{field.name} = {text}")
        return "\n".join(lines) + "\n"

    def command(self) -> str:
        """The command line that trains it: every field that is not its default."""
        words = ["levelhead", self.COMMAND, shlex.quote(self.data)]
        for field in dataclasses.fields(self):
            value, flag = getattr(self, field.name), "--" + field.name.replace("_", "-")
            if field.name == "data" or value == field.default:
                continue
            if isinstance(value, bool):
                words.append(flag if value else flag.replace("--", "--no-", 1))
            else:
                values = value if isinstance(value, tuple) else (value,)
                words += [flag, *(shlex.quote(str(part)) for part in values)]
        return " ".join(words)

    @classmethod
    def from_toml(cls, text: str, where: str = "recipe.toml") -> Self:
        """Read what `to_toml` wrote. Raises LevelheadError for a key that is no field."""
        try:
            values = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise LevelheadError(f"{where}: not valid TOML ({error})") from None
        known = [field.name for field in dataclasses.fields(cls)]
        task = values.get("task", "images") if "task" not in known else "images"
        if task != "images":
            raise LevelheadError(f"{where}: a run that learned {task}, not images; {OTHER_TASKS}")
        for key in values:
            if key not in known:
                raise LevelheadError(f"{where}: unknown key {key!r}; {nearest(key, known)}")
        if "data" not in values:
            raise LevelheadError(f"{where}: the key 'data' is missing; name the data to train on")
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**values)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a recipe file. Raises LevelheadError if it is missing or not a recipe."""
        path = Path(path)
        refuse_pipes(path)
        try:
            return cls.from_toml(path.read_text(encoding="utf-8"), str(path))
        except OSError as error:
            raise LevelheadError(f"{path}: cannot be read ({error.strerror})") from None
        except UnicodeDecodeError:
            raise LevelheadError(f"{path}: not a text file; give a recipe.toml") from None


@dataclass(frozen=True)
class Recipe(Settings):
    """What to train on what, and how. Raises LevelheadError for a value that cannot be."""

    COMMAND = "train"

    data: str
    """`digits`, a folder of images, a labels.csv, a folder of parquet or IDX files, or an npz."""

    classes: tuple[str, ...] = ()
    """Only the images of these classes; the splits are those of all (default: every class)."""
    label_column: str = ""
    """Column of labels in a table or parquet file (default: `label`, or the one alike)."""
    group_column: str = "group"
    """Column of groups there: images that belong together, and are never parted."""
    outside_paths: bool = False
    """Let a table name images that lie outside of its own folder."""
    labels: str | None = None
    """PATH or PATH:COLUMN: annotators' labels of train and validation (default: the data's own)."""
    image_size: int | None = None
    """Side of the square image the network sees, in pixels (default: chosen for model and data)."""
    resize: Literal["crop", "squash"] = "squash"
    """How an oblong image becomes square: squashed whole, or its centre cropped."""
    grey: bool = False
    """Turn colour images grey (luma), for training and for every answer."""
    validation: float = 0.1
    """Share of the training images held out to fit the temperature."""
    test: float = 0.2
    """Share held out for testing where the data has no test set of its own."""
    split_seed: int = 0
    """Seed of the splits; apart from --seed, so that a study shares its splits."""
    strict_splits: bool = False
    """Refuse data in which the same image stands in two splits."""
    skip_broken: bool = False
    """Leave out images that cannot be read, and list them in the run."""

    cache: bool = True
    """Keep decoded images and features for the next run; files count as the same by size, time."""

    model: str = "auto"
    """auto, a name from `levelhead models`, timm:NAME or torchvision:NAME."""
    width: int | None = None
    """Units of mlp's hidden layers, channels of the first layers of cnn and resnets (default: 512,
    32, 16 or 64)."""
    dropout: float | None = None
    """Dropout rate, of models that have it (default: its paper's)."""
    pretrained: bool = False
    """Let timm: and torchvision: networks download their published weights."""
    weights: str | None = None
    """Start from this file of weights: safetensors, or a torch file that holds tensors alone."""
    init: Literal["own", "kaiming", "xavier", "orthogonal", "normal", "zeros"] = "own"
    """First weights of convolutions and linear layers: the network's own, or drawn so."""
    finetune: bool | None = None
    """Tune a pretrained network from its best head on, not the head alone: lite0 to lite2 their
    last blocks, others whole (default: lite0 to lite2 from 200 training images on)."""
    from_scratch: bool = False
    """Use no published weights: auto then takes resnet18 for photos."""

    loss: str = "cross_entropy"
    """Training loss: cross_entropy, or a relative of smoothing."""
    strength: float | None = None
    """Strength of the loss's own term, for example focal's gamma (default: its paper's)."""
    margin: float | None = None
    """Margin of the loss mbls, in logits (default: 10)."""
    knobs: tuple[str, ...] = ()
    """NAME=VALUE for numbers of the loss that have no flag of their own (default: its paper's)."""
    smoothing: float = 0.0
    """Label smoothing epsilon, in [0, 1)."""
    convention: Literal["uniform", "others"] = "uniform"
    """Spread epsilon over all K classes (uniform) or over the K-1 wrong ones (others)."""
    smoothing_by_class: str | None = None
    """CSV of class,epsilon for some classes (default: --smoothing for each)."""
    prior: str | None = None
    """Where epsilon goes: `frequency`, or a CSV of shares or similarities (default: evenly)."""
    targets: Literal["loss", "explicit", "online"] = "loss"
    """Smooth inside the loss, by explicit soft targets (same numbers), or online (learnt)."""
    mix: Literal["none", "mixup", "cutmix"] = "none"
    """Mix each batch with itself in another order, images and targets alike."""
    mix_alpha: float | None = None
    """Share of the first image ~ Beta(a, a) (default: 0.2 for mixup, 1 for cutmix)."""
    mix_maps: float | None = None
    """Mixup of the maps that tuned blocks see: share ~ Beta(a, a) (0: none; default: 0.4)."""
    teacher: str | None = None
    """Learn from this finished run, or a file of predictions; {seed} in it stands for --seed."""
    temperature: float = 1.0
    """Temperature of the teacher's probabilities."""
    student_temperature: float = 1.0
    """Temperature of the student's where they meet the teacher's (1: Mueller; as above: Hinton)."""
    match: Literal["probabilities", "logits"] = "probabilities"
    """Match the teacher's probabilities (cross-entropy) or its logits (half the squared error)."""
    teacher_norm: float | None = None
    """Scale the teacher's centred logits of each image to this norm (default: as they are)."""
    beta: float = 1.0
    """Share of the teacher in the loss; the rest are the labels."""
    noise: Literal["none", "symmetric", "asymmetric"] = "none"
    """Label noise in train and validation (test stays clean): any other class, or a similar one."""
    noise_rate: float = 0.2
    """Share of the labels that --noise changes."""
    class_weights: Literal["none", "balanced"] = "none"
    """Weigh classes by the inverse of their frequency in the training split."""

    optimizer: Literal["sgd", "adamw", "muon"] | None = None
    """Optimiser (default: chosen for the model)."""
    lr: float | None = None
    """Peak learning rate."""
    momentum: float | None = None
    """Momentum of sgd (Nesterov) and muon; adamw's first beta."""
    beta2: float = 0.999
    """Second beta of adamw."""
    weight_decay: float | None = None
    """Weight decay, not of biases and norms: in the gradient for sgd, decoupled for the others."""
    l1: float = 0.0
    """L1 penalty in the gradient: this times the sign of every weight that may decay."""
    penalty: float | None = None
    """L2 penalty of the head on a frozen body (default: chosen on folds of the training split)."""
    schedule: Schedule | None = None
    """Learning-rate schedule, stepped every batch."""
    warmup: float | None = None
    """Share of the steps in which the rate rises linearly from zero."""
    power: float = 1.0
    """Exponent of the polynomial schedule (1 is linear)."""
    step_at: tuple[float, ...] = (0.5, 0.75)
    """Where the step schedule drops the rate, as shares of training."""
    step_factor: float = 0.1
    """Factor by which the step schedule multiplies the rate."""
    clip_norm: float | None = None
    """Clip the gradient to this norm (default: no clipping)."""
    epochs: int | None = None
    """Passes over the training split."""
    batch_size: int | None = None
    """Images per step."""

    crop: int | None = None
    """Random crop after reflecting the border by this many pixels (0: none)."""
    window: int | None = None
    """Side of the random window that the first epochs see, in pixels (0: whole images always)."""
    flip: bool | None = None
    """Mirror images left-right, alternating from epoch to epoch."""
    cutout: int | None = None
    """Side of a random square painted with the mean colour (0: none)."""
    shift: float = 0.0
    """Shift by up to this share of the side, either way."""
    rotation: float = 0.0
    """Turn by up to so many degrees, either way."""
    shear: float = 0.0
    """Shear horizontally by up to so many degrees, either way."""
    perspective: float = 0.0
    """Tilt: each corner comes inwards by up to this share of half a side."""
    scale: float = 1.0
    """Random resized crop: the least area that it keeps, of aspect 3/4 to 4/3 (1: none)."""
    fill: Literal["nearest", "reflect", "constant"] = "reflect"
    """Beyond the border of a moved image: its last pixel, its mirror, or the mean colour."""
    brightness: float = 0.0
    """Multiply by 1 plus or minus up to this."""
    contrast: float = 0.0
    """Blend with the image's mean grey by up to this, either way."""
    colour: float = 0.0
    """Blend with the image in grey by up to this, either way."""
    pixel_noise: float = 0.0
    """Add Gaussian noise of this deviation, as a share of white."""
    policy: Literal[
        "none", "autoaugment-cifar10", "autoaugment-imagenet", "randaugment", "trivialaugment"
    ] = "none"
    """A published augmentation policy, after crop and mirror."""
    augment_by_class: str | None = None
    """CSV of class and any of shift ... pixel_noise: strengths of some classes."""
    sampler: Literal["shuffled", "balanced"] = "shuffled"
    """Order of the images: each once an epoch, or drawn so that classes come equally often."""
    prior_correction: bool = False
    """Take the effect of balanced weights or draws on the probabilities out of the head again."""
    tta: Literal["none", "flip", "crops", "draws"] = "none"
    """Views to average when judging and predicting: the mirror image, crops, or fixed draws of the
    training augmentation."""
    tta_draws: int = 8
    """How many draws."""
    tta_average: Literal["logits", "probabilities"] = "logits"
    """What is averaged over the views."""

    tensorboard: bool = False
    """Write the run's course, figures and words for TensorBoard, too, in its folder tensorboard."""
    save_every: int | None = None
    """Keep the weights in snapshots/ at first and every so many steps (default: only the last)."""
    precision: Literal["float32", "bfloat16"] | None = None
    """Arithmetic of training (default: bfloat16 where the machine gains); judging is float32."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    seed: int = 0
    """Seed of initial weights, batch order and augmentation."""

    def __post_init__(self) -> None:
        check_types(self)

        def must(name: str, condition: bool, wanted: str) -> None:
            if not condition:
                flag = "--" + name.replace("_", "-")
                raise LevelheadError(f"{flag} {getattr(self, name)}: must be {wanted}")

        def optional(name: str, low: float, wanted: str, strict: bool = True) -> None:
            value = getattr(self, name)
            fine = value is None or (value > low if strict else value >= low)
            must(name, fine, wanted)

        loss_knobs(self)
        must("smoothing", 0 <= self.smoothing < 1, "in [0, 1), for example 0.1")
        must("validation", 0 < self.validation < 1, "between 0 and 1, for example 0.1")
        must("test", 0 < self.test < 1, "between 0 and 1, for example 0.2")
        must("noise_rate", 0 <= self.noise_rate <= 1, "between 0 and 1, for example 0.2")
        for name in ("temperature", "student_temperature"):
            must(name, 0 < getattr(self, name) < math.inf, "above 0")
        must("beta", 0 <= self.beta <= 1, "between 0 and 1")
        must("dropout", self.dropout is None or 0 <= self.dropout < 1, "in [0, 1)")
        must("power", self.power > 0, "above 0")
        must("step_factor", 0 < self.step_factor <= 1, "in (0, 1]")
        finite = ("lr", "weight_decay", "penalty", "power", "clip_norm", "teacher_norm")
        for name in (*finite, "mix_alpha", "mix_maps"):
            must(name, getattr(self, name) is None or math.isfinite(getattr(self, name)), "finite")
        must("step_at", all(0 < s < 1 for s in self.step_at), "shares between 0 and 1")
        must("classes", len(set(self.classes)) == len(self.classes) != 1, "two names or more")
        positive = ("lr", "epochs", "batch_size", "clip_norm", "image_size", "save_every", "width")
        for name in (*positive, "teacher_norm", "mix_alpha"):
            optional(name, 0, "above 0")
        for name in ("weight_decay", "penalty", "crop", "cutout", "window", "mix_maps"):
            optional(name, 0, "0 or more", strict=False)
        for name, most in MOST_MOVED.items():
            value = getattr(self, name)
            low = value > 0 if name == "scale" else value >= 0
            must(name, low and value <= most, f"from 0 to {most:g}")
        must("l1", 0 <= self.l1 < math.inf, "0 or more")
        must("tta_draws", 1 <= self.tta_draws <= 100, "1 to 100")
        must("warmup", self.warmup is None or 0 <= self.warmup < 1, "in [0, 1)")
        must("momentum", self.momentum is None or 0 <= self.momentum < 1, "in [0, 1)")
        must("beta2", 0 <= self.beta2 < 1, "in [0, 1)")
        for name in ("seed", "split_seed"):
            must(name, 0 <= getattr(self, name) < 2**63, "between 0 and 2^63")
        must(
            "finetune",
            not (self.finetune and self.from_scratch),
            "left out when --from-scratch is given",
        )
        for name in ("from_scratch", "pretrained"):
            must(
                "weights",
                self.weights is None or not getattr(self, name),
                f"left out when --{name.replace('_', '-')} is given",
            )

    @property
    def loss_knobs(self) -> dict[str, float | None]:
        """The loss's own numbers by name: strength, margin and `knobs`; None where left open."""
        return loss_knobs(self)


class Knobbed(Protocol):
    """Settings with numbers of the loss."""

    @property
    def strength(self) -> float | None: ...
    @property
    def margin(self) -> float | None: ...
    @property
    def knobs(self) -> tuple[str, ...]: ...


def loss_knobs(recipe: Knobbed) -> dict[str, float | None]:
    """The loss's own numbers by name: strength, margin and `knobs`; None where left open.

    Raises LevelheadError for a word that is not NAME=NUMBER.
    """
    values: dict[str, float | None] = {"strength": recipe.strength, "margin": recipe.margin}
    return values | dict(map(_knob, recipe.knobs))


def _knob(word: str) -> tuple[str, float]:
    """NAME=VALUE. Raises LevelheadError for anything else."""
    name, _, text = word.partition("=")
    try:
        return name, float(text)
    except ValueError:
        raise LevelheadError(f"--knobs {word}: must be NAME=NUMBER") from None


def check_types(recipe: Settings) -> None:
    """Raise LevelheadError for a value that is not of its field's type or among its choices."""
    hints = typing.get_type_hints(type(recipe))
    for field in dataclasses.fields(recipe):
        value, hint = getattr(recipe, field.name), hints[field.name]
        flag = "data" if field.name == "data" else "--" + field.name.replace("_", "-")
        if field.name == "data" and hasattr(value, "shape"):
            raise LevelheadError(
                "data: an array, not a name; for arrays: levelhead.train(Recipe('arrays'), "
                "data=levelhead.data.from_arrays(images, labels))"
            )
        if not _fits(value, hint):
            shown = " ".join(repr(value).split())
            shown = shown if len(shown) <= 60 else f"{shown[:57]}…"
            raise LevelheadError(f"{flag} {shown}: must be {_wanted(hint)}")
        parts = value if isinstance(value, tuple) else (value,)
        if not all(_is_unicode(str(part)) for part in parts):
            raise LevelheadError(f"{flag} {value!r}: is not valid Unicode; rename it")


def _fits(value: Any, hint: Any) -> bool:
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return any(_fits(value, part) for part in inside)
    if origin is Literal:
        return value in inside
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(part, inside[0]) for part in value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _wanted(hint: Any) -> str:
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return _wanted(next(part for part in inside if part is not type(None)))
    if origin is Literal:
        return "one of " + ", ".join(map(str, inside))
    if origin is tuple:
        return "names" if inside[0] is str else "numbers"
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return words[hint]


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
