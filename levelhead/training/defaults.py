"""What a recipe leaves open, chosen for its model and its data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from levelhead.errors import LevelheadError
from levelhead.recipe import Recipe

# Share of the epochs that see random windows, where the recipe has a window.
WINDOW_SHARE = 0.6
# Where --epochs is not given, small data is trained for at least this many steps.
LEAST_STEPS = 900
# "Small": a split of fewer images than this also gets a smaller batch.
SMALL = 10_000


@dataclass(frozen=True)
class Facts:
    """What choosing needs to know of the data: median short side, channels, training images."""

    size: int
    channels: int
    examples: int


_SGD = {"optimizer": "sgd", "momentum": 0.9, "schedule": "cosine", "warmup": 0.05}
_ADAMW = {"optimizer": "adamw", "momentum": 0.9, "schedule": "cosine", "warmup": 0.05}
_RESNET = {**_SGD, "lr": 0.1, "weight_decay": 5e-4, "batch_size": 128, "epochs": 30}
# Rates, batch sizes and lengths by model; `None` in the recipe takes them.
DEFAULTS: dict[str, dict[str, Any]] = {
    "linear": {**_ADAMW, "lr": 1e-2, "weight_decay": 1e-3, "batch_size": 256, "epochs": 20},
    "mlp": {**_ADAMW, "lr": 2e-3, "weight_decay": 1e-2, "batch_size": 256, "epochs": 20},
    "cnn": {**_ADAMW, "lr": 4e-3, "weight_decay": 1e-2, "batch_size": 256, "epochs": 20},
    "alexnet": {**_SGD, "lr": 0.05, "weight_decay": 5e-4, "batch_size": 128, "epochs": 30},
    "resnet20": _RESNET,
    "resnet32": _RESNET,
    "resnet44": _RESNET,
    "resnet56": _RESNET,
    "resnet18": _RESNET,
    "fast": {
        "optimizer": "muon",
        "momentum": 0.6,
        "schedule": "polynomial",
        "warmup": 0.0,
        "lr": 0.24,
        "batch_size": 1000,
        "epochs": 8,
    },
    "borrowed": {**_SGD, "lr": 0.05, "weight_decay": 1e-4, "batch_size": 64, "epochs": 30},
    "finetune": {**_ADAMW, "lr": 3e-3, "weight_decay": 1e-2, "batch_size": 32, "epochs": 8},
}


# Flags of distillation, and the values that ask for nothing.
DISTILLING = {
    "temperature": 1,
    "student_temperature": 1,
    "match": "probabilities",
    "teacher_norm": None,
    "beta": 1,
}
# Mixup: within 0.1 to 0.4, good on ImageNet (Zhang et al. 2018, section 3.1; 1 on CIFAR-10).
# CutMix: every share alike (Yun et al. 2019, section 3.1).
MIX_ALPHA = {"mixup": 0.2, "cutmix": 1.0}
# Flags that only some models have.
OWN_KNOBS = {"width": ("mlp",), "dropout": ("mlp", "cnn")}


def choose_model(recipe: Recipe, facts: Facts) -> Recipe:
    """Replace `auto`, and set the image size.

    Raises LevelheadError for an unknown name, before any image is read, and for flags that
    contradict each other.
    """
    from levelhead.models import known

    model = recipe.model
    size = recipe.image_size or facts.size
    if model == "auto":
        if size < 16:
            model = "cnn"
        elif size <= 48:
            model = "fast"
        else:
            model = "resnet18" if recipe.from_scratch else "lite0"
    borrowed = model.startswith(("timm:", "torchvision:"))
    if not borrowed:
        known(model)
    if model == "lite0" and recipe.from_scratch:
        raise LevelheadError(
            "--from-scratch --model lite0: lite0 is the pretrained one; "
            "use --model timm:tf_efficientnet_lite0"
        )
    if recipe.pretrained and not borrowed:
        raise LevelheadError(
            f"--pretrained --model {model}: only timm:NAME and torchvision:NAME download weights"
        )
    if recipe.finetune and not (model == "lite0" or recipe.pretrained):
        raise LevelheadError(
            f"--finetune --model {model}: has no published weights to start from; "
            "use --model lite0, or timm:NAME --pretrained"
        )
    if recipe.image_size is None:
        if model == "lite0":
            size = 160 if facts.size < 200 else 224
        elif borrowed:
            size = 224 if recipe.pretrained or facts.size > 64 else facts.size
        elif model == "resnet18":
            size = 64 if facts.size > 48 else facts.size
        elif facts.size > 48:
            size = 32
    return recipe.replace(model=model, image_size=size)


def frozen(recipe: Recipe) -> bool:
    """Whether a resolved recipe trains a head on a pretrained body that stands still."""
    return (recipe.model == "lite0" or recipe.pretrained) and not recipe.finetune


def choices(recipe: Recipe, examples: int) -> str:
    """What a resolved recipe will do, in one sentence; `examples` are those of the train split."""
    start = f"{recipe.model} at {recipe.image_size} px"
    if frozen(recipe):
        return f"{start}, its pretrained body frozen: features once, then the head."
    assert recipe.epochs is not None
    assert recipe.batch_size is not None
    steps = -(-examples // recipe.batch_size)
    moves = [
        f"{name} {value}"
        for name, value in (("crop", recipe.crop), ("cutout", recipe.cutout))
        if value
    ]
    moves += [f"windows of {recipe.window} px at first"] if recipe.window else []
    moves += ["mirrored"] if recipe.flip else []
    moves += [f"{recipe.mix} {recipe.mix_alpha:g}"] if recipe.mix != "none" else []
    return (
        f"{start}: {recipe.epochs} epochs of {steps} steps, batches of {recipe.batch_size}, "
        f"{recipe.optimizer} at {recipe.lr:g} ({recipe.schedule}), {recipe.precision}; "
        f"augmentation: {', '.join(moves) or 'none'}."
    )


def _refuse_contradictions(recipe: Recipe) -> None:
    """Raise LevelheadError for ways to make targets that exclude each other."""
    from levelhead.losses import find_loss

    loss, knobs, online = recipe.loss, find_loss(recipe.loss), recipe.targets == "online"
    mixes, by_class = recipe.mix != "none", recipe.smoothing_by_class
    teacher_is_file = recipe.teacher is not None and Path(recipe.teacher).expanduser().is_file()
    learns = "--targets online learns its own; leave one of them out"
    for name, wrong, why in (
        ("prior", online, learns),
        ("prior", not (recipe.smoothing or by_class), "nothing goes there; give --smoothing 0.1"),
        ("smoothing_by_class", online, learns),
        ("smoothing_by_class", not knobs.smoothing, f"--loss {loss} takes the place of smoothing"),
        ("labels", recipe.noise != "none", "--noise is for the data's own; leave one of them out"),
        ("labels", recipe.classes, "annotators may have named classes that --classes leaves out"),
        ("mix", mixes and online, learns),
        ("mix", mixes and not knobs.soft, f"--loss {loss} wants one label; take cross_entropy"),
        ("mix", mixes and teacher_is_file, "--teacher is a file, of whole images; give its run"),
        ("mix_alpha", not mixes, "nothing is mixed; give --mix mixup or --mix cutmix"),
    ):
        if getattr(recipe, name) is not None and wrong:
            flag = "--" + name.replace("_", "-")
            raise LevelheadError(f"{flag} {getattr(recipe, name)}: {why}")


def resolve(recipe: Recipe, facts: Facts, *, low_precision: bool = False) -> Recipe:
    """The recipe with every field that matters set; resolving twice changes nothing.

    low_precision: whether the machine gains from bfloat16. A frozen body needs no optimiser, so
    those fields stay unset. Raises LevelheadError for an unknown loss or contradicting flags.
    """
    from levelhead.losses import find_loss

    loss = find_loss(recipe.loss)
    loss.options(recipe.smoothing, knobs=recipe.loss_knobs)
    if recipe.targets != "loss" and not loss.soft:
        raise LevelheadError(
            f"--targets {recipe.targets}: --loss {recipe.loss} relaxes one label, not soft "
            "targets; leave it out"
        )
    if recipe.targets == "online" and recipe.smoothing:
        raise LevelheadError(
            f"--smoothing {recipe.smoothing}: --targets online learns its own; leave it out"
        )
    if recipe.teacher is None:
        for name, plain in DISTILLING.items():
            if getattr(recipe, name) != plain:
                flag = "--" + name.replace("_", "-")
                raise LevelheadError(
                    f"{flag} {getattr(recipe, name)}: is for distillation; give --teacher RUN"
                )
    else:  # each seed its own
        recipe = recipe.replace(teacher=recipe.teacher.replace("{seed}", str(recipe.seed)))
    _refuse_contradictions(recipe)
    for name in ("teacher", "labels", "prior", "smoothing_by_class"):
        if (given := getattr(recipe, name)) not in (None, "frequency"):  # found from any folder
            recipe = recipe.replace(**{name: str(Path(given).expanduser().absolute())})
    if recipe.mix_alpha is None:
        recipe = recipe.replace(mix_alpha=MIX_ALPHA.get(recipe.mix))
    if recipe.match == "logits" and (recipe.temperature, recipe.student_temperature) != (1, 1):
        raise LevelheadError(
            "--match logits: knows no temperature; leave --temperature and "
            "--student-temperature out"
        )
    recipe = choose_model(recipe, facts)
    for name, models in OWN_KNOBS.items():
        if getattr(recipe, name) is not None and recipe.model not in models:
            raise LevelheadError(
                f"--{name} {getattr(recipe, name)}: --model {recipe.model} has none; "
                f"it is for {' and '.join(models)}"
            )
    size = recipe.image_size or facts.size
    if frozen(recipe):
        for flag, wrong in (
            ("--targets online", recipe.targets == "online"),
            ("--save-every", recipe.save_every is not None),
            ("--teacher", recipe.teacher is not None),
            (f"--mix {recipe.mix}", recipe.mix != "none"),
            (f"--loss {recipe.loss}", not loss.scale),  # L2 alone would set its scale
        ):
            if wrong:
                raise LevelheadError(
                    f"{flag}: needs a network trained step by step; add --finetune or another "
                    "--model"
                )
        return recipe.replace(precision=recipe.precision or "float32")
    key = "finetune" if recipe.finetune else recipe.model
    chosen = dict(DEFAULTS.get(key, DEFAULTS["borrowed"]))
    if facts.examples < SMALL and recipe.batch_size is None:
        # About 20 steps in an epoch, but never batches of under 16.
        power = int(math.log2(max(1, facts.examples / 20)))
        chosen["batch_size"] = max(16, min(chosen["batch_size"], 2**power))
    batch = recipe.batch_size or chosen["batch_size"]
    batch = min(batch, facts.examples)
    if facts.examples < SMALL and not recipe.finetune:
        steps = -(-facts.examples // batch)
        chosen["epochs"] = max(chosen["epochs"], -(-LEAST_STEPS // steps))
    if recipe.model == "fast":
        chosen["weight_decay"] = 2e-6 * batch
    moves = size >= 16 and recipe.model not in ("linear", "mlp")
    chosen["crop"] = (size // 16 if recipe.model == "fast" else size // 8) if moves else 0
    chosen["flip"] = moves and facts.channels == 3
    chosen["cutout"] = 0
    # A window of 13/16 of the side; only `fast` has been measured with one.
    chosen["window"] = size * 13 // 16 if recipe.model == "fast" and size >= 20 else 0
    gains = low_precision and moves and recipe.model != "cnn"
    chosen["precision"] = "bfloat16" if gains else "float32"
    if recipe.optimizer is not None and recipe.optimizer != chosen["optimizer"]:
        other = {"sgd": (0.05, 0.9, 5e-4), "adamw": (2e-3, 0.9, 1e-2), "muon": (0.02, 0.95, 1e-2)}
        chosen["lr"], chosen["momentum"], chosen["weight_decay"] = other[recipe.optimizer]
    if recipe.schedule == "one-cycle":
        chosen["warmup"] = 0.3
    if recipe.window:
        least = {"linear": size, "mlp": size, "fast": 16}.get(recipe.model, 4)
        if recipe.model.startswith(("timm:", "torchvision:")):
            least = size  # many have a fixed grid of patches
        if recipe.window < least:
            raise LevelheadError(
                f"--window {recipe.window} --model {recipe.model}: takes no images under {least} "
                "px; leave --window out, or choose a larger one"
            )
    unset = {name: value for name, value in chosen.items() if getattr(recipe, name) is None}
    return recipe.replace(**{**unset, "batch_size": batch})
