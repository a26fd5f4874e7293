"""What a recipe leaves open, chosen for its model and its data."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from levelhead.data.warp import WARPS
from levelhead.errors import LevelheadError
from levelhead.losses import find_loss
from levelhead.models import MODELS, auto, find_model
from levelhead.models.entry import ADAMW, Entry
from levelhead.recipe import MOST_MOVED, Recipe
from levelhead.text import some
from levelhead.training.prior import balancing

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


# A pretrained network that is trained whole, whichever it is.
FINETUNE = {**ADAMW, "lr": 1e-3, "weight_decay": 1e-2, "batch_size": 32, "epochs": 8}
# Fewer training images do not say how to move a pretrained body: its head alone is fitted.
LEAST_TUNED = 200
# Of the maps that tuned blocks see (docs/findings.md, "A folder of photos").
TUNED_ALPHA = 0.4
# Rate, momentum and decay where the recipe takes another optimiser than its model's.
OTHER_OPTIMIZER = {
    "sgd": {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4},
    "adamw": {"lr": 2e-3, "momentum": 0.9, "weight_decay": 1e-2},
    "muon": {"lr": 0.02, "momentum": 0.95, "weight_decay": 1e-2},
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


PLAIN: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(Recipe)}
"""What each field holds that was not given."""
FILES = ("teacher", "labels", "prior", "smoothing_by_class", "augment_by_class", "weights")
"""The fields that name a file."""
MOVES = ("crop", "window", "cutout", *MOST_MOVED, "policy", "augment_by_class")
"""The fields that show a network more than the image itself, but for its mirror."""


def moves_of(recipe: Recipe) -> tuple[str, ...]:
    """The fields by which a recipe shows more than the image itself and its mirror."""
    return tuple(n for n in MOVES if getattr(recipe, n) not in (None, 0, PLAIN[n]))


def augments(recipe: Recipe) -> bool:
    """Whether training sees more than each image as it is; reads no file."""
    return bool(recipe.flip or moves_of(recipe))


def choose_model(recipe: Recipe, facts: Facts) -> Recipe:
    """Replace `auto`, and set the image size.

    Raises LevelheadError for an unknown name, before any image is read, and for flags that do not
    go with the model's weights.
    """
    size = recipe.image_size or facts.size
    model = auto(size, recipe.from_scratch) if recipe.model == "auto" else recipe.model
    # Small networks have large ones of the same name: weights of photos are theirs.
    sided = recipe.image_size or (facts.size if recipe.weights else 0)
    entry = find_model(model).at(sided, recipe.pretrained)
    starts = recipe.pretrained or recipe.weights is not None
    embedded = " or ".join(name for name, one in MODELS.items() if one.weights == "embedded")
    _refuse(
        (
            recipe.weights is not None and recipe.model == "auto",
            "--weights: of which network? name it with --model",
        ),
        (
            recipe.init != "own" and (entry.pretrained(starts)),
            f"--init {recipe.init}: {model} starts from published weights; leave one of them out",
        ),
        (
            recipe.from_scratch and entry.weights == "embedded",
            f"--from-scratch --model {model}: {model} is the pretrained one; use {entry.untrained}",
        ),
        (
            recipe.pretrained and entry.weights != "download",
            f"--pretrained --model {model}: has none to download; take {DOWNLOADS}",
        ),
        (
            recipe.weights is not None and entry.weights == "embedded",
            f"--weights --model {model}: brings its own; use {entry.untrained} for others",
        ),
        (
            recipe.finetune and not entry.pretrained(starts),
            f"--finetune --model {model}: has no published weights to start from; "
            f"use --model {embedded}, timm:NAME --pretrained, or --weights FILE",
        ),
    )
    if recipe.image_size is None:
        size = entry.size(facts.size, starts)
    return recipe.replace(model=model, image_size=size)


DOWNLOADS = "timm:NAME, torchvision:NAME, or a model that says so in levelhead models"


def entry_of(recipe: Recipe) -> Entry:
    """The entry of the model of a recipe whose model and image size are chosen."""
    return find_model(recipe.model).at(recipe.image_size or 0, recipe.pretrained)


def frozen(recipe: Recipe) -> bool:
    """Whether a resolved recipe trains a head on a pretrained body that stands still."""
    starts = recipe.pretrained or recipe.weights is not None
    return entry_of(recipe).pretrained(starts) and not recipe.finetune


def tuned(recipe: Recipe) -> bool:
    """Whether a resolved recipe tunes the last blocks of a body whose front stands still."""
    return bool(recipe.finetune) and entry_of(recipe).tunable is not None


def _refuse(*rows: tuple[Any, str]) -> None:
    """Raise LevelheadError with the sentence of the first condition that holds."""
    for wrong, sentence in rows:
        if wrong:
            raise LevelheadError(sentence)


def choices(recipe: Recipe, examples: int) -> str:
    """What a resolved recipe will do, in one sentence; `examples` are those of the train split."""
    start = f"{recipe.model} at {recipe.image_size} px"
    if frozen(recipe):
        return f"{start}, its pretrained body frozen: features once, then the head."
    if tuned(recipe):
        start += ", from the best head on its pretrained body, then its last blocks"
    elif recipe.finetune:
        start += ", from the best head on its pretrained body"
    if recipe.weights is not None:
        start += ", from the weights of a file"
    elif entry_of(recipe).weights == "download" and not recipe.pretrained:
        start += ", from random weights (--pretrained downloads the published ones)"
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
    moves += [recipe.policy] if recipe.policy != "none" else []
    moves += [
        f"{name.replace('_', ' ')} {getattr(recipe, name):g}"
        for name in MOST_MOVED
        if getattr(recipe, name) != PLAIN[name]
    ]
    moves += ["strengths by class"] if recipe.augment_by_class else []
    moves += [f"{recipe.mix} {recipe.mix_alpha:g}"] if recipe.mix != "none" else []
    moves += [f"maps mixed {recipe.mix_maps:g}"] if recipe.mix_maps else []
    return (
        f"{start}: {recipe.epochs} epochs of {steps} steps, batches of {recipe.batch_size}, "
        f"{recipe.optimizer} at {recipe.lr:g} ({recipe.schedule}), {recipe.precision}; "
        f"augmentation: {', '.join(moves) or 'none'}"
        + ("; classes drawn equally often." if recipe.sampler == "balanced" else ".")
    )


def _flag(recipe: Recipe, name: str) -> str:
    flag, value = f"--{name.replace('_', '-')}", getattr(recipe, name)
    return flag if value is True else f"{flag} {value}"


def _contradictions(recipe: Recipe) -> Iterator[tuple[Any, str]]:
    """Every way in which flags of a recipe exclude each other, and what to say then."""
    loss, online = find_loss(recipe.loss), recipe.targets == "online"
    mixes, by_class = recipe.mix != "none", recipe.smoothing_by_class is not None
    learns = "--targets online learns its own; leave one of them out"
    file = recipe.teacher is not None and Path(recipe.teacher).expanduser().is_file()
    yield (
        recipe.targets != "loss" and not loss.soft,
        f"--targets {recipe.targets}: --loss {recipe.loss} relaxes one label, not soft targets; "
        "leave it out",
    )
    yield (
        online and recipe.smoothing,
        f"{_flag(recipe, 'smoothing')}: --targets online learns its own; leave it out",
    )
    for name, plain in DISTILLING.items():
        yield (
            recipe.teacher is None and getattr(recipe, name) != plain,
            f"{_flag(recipe, name)}: is for distillation; give --teacher RUN",
        )
    takes = f"--loss {recipe.loss} {loss.why_unsmoothed}"
    for name, wrong, why in (
        ("prior", online, learns),
        ("prior", not (recipe.smoothing or by_class), "nothing goes there; give --smoothing 0.1"),
        ("smoothing_by_class", online, learns),
        ("smoothing_by_class", not loss.smoothing, takes),
        ("labels", recipe.noise != "none", "--noise is for the data's own; leave one of them out"),
        ("labels", recipe.classes, "annotators may have named classes that --classes leaves out"),
        ("mix", mixes and online, learns),
        (
            "mix",
            mixes and not loss.soft,
            f"--loss {recipe.loss} wants one label; take cross_entropy",
        ),
        ("mix", mixes and file, "--teacher is a file, of whole images; give its run"),
        ("mix_alpha", not mixes, "nothing is mixed; give --mix mixup or --mix cutmix"),
    ):
        yield getattr(recipe, name) is not None and wrong, f"{_flag(recipe, name)}: {why}"
    warps = any(getattr(recipe, name) != PLAIN[name] for name in WARPS)
    several = recipe.tta != "none"
    for name, plain, wrong, why in (
        (
            "fill",
            "reflect",
            not (warps or recipe.augment_by_class),
            "nothing is moved; give --shift 0.1",
        ),
        ("tta_draws", 8, recipe.tta != "draws", "is for --tta draws; leave it out"),
        ("tta_average", "logits", not several, "there is one view; give --tta flip"),
        (
            "prior_correction",
            False,
            not balancing(recipe),
            "classes are not balanced; give --class-weights balanced or --sampler balanced",
        ),
        (
            "tta",
            "none",
            recipe.tta == "draws" and recipe.policy != "none",
            f"draws of --policy {recipe.policy} are not fixed; take --tta flip or crops",
        ),
    ):
        yield getattr(recipe, name) != plain and wrong, f"{_flag(recipe, name)}: {why}"
    temperatures = recipe.temperature, recipe.student_temperature
    yield (
        recipe.match == "logits" and temperatures != (1, 1),
        "--match logits: knows no temperature; leave --temperature and --student-temperature out",
    )


def _model_refusals(recipe: Recipe, size: int, channels: int) -> Iterator[tuple[Any, str]]:
    """What the model does not have or take, of a recipe whose model and size are chosen."""
    entry, model = entry_of(recipe.replace(image_size=size)), recipe.model
    for name in ("width", "dropout"):
        owners = some([n for n, one in MODELS.items() if name in one.knobs], 12)
        yield (
            getattr(recipe, name) is not None and name not in entry.knobs,
            f"{_flag(recipe, name)}: --model {model} has none; it is for {owners}",
        )
    yield (
        recipe.colour and channels == 1,
        f"{_flag(recipe, 'colour')}: these images are grey; leave it out, or take --contrast",
    )
    if frozen(recipe):
        for name in moves_of(recipe):
            yield (
                True,
                f"{_flag(recipe, name)}: the frozen body of {model} sees each image once; leave it "
                "out, add --finetune (from 200 images on), or take another --model",
            )
        yield (
            recipe.sampler == "balanced",
            "--sampler balanced: the head on a frozen body sees all images at once; take "
            "--class-weights balanced",
        )
        for flag, wrong in (
            ("--targets online", recipe.targets == "online"),
            ("--save-every", recipe.save_every is not None),
            ("--teacher", recipe.teacher is not None),
            (f"--mix {recipe.mix}", recipe.mix != "none"),
            (_flag(recipe, "mix_maps"), recipe.mix_maps),
            (_flag(recipe, "l1"), recipe.l1),
            # L2 alone would set its scale.
            (f"--loss {recipe.loss}", not find_loss(recipe.loss).scale),
        ):
            yield (
                wrong,
                f"{flag}: needs a network trained step by step; add --finetune or another --model",
            )
        return
    loss, both = find_loss(recipe.loss), recipe.mix != "none" or recipe.targets == "online"
    for wrong, why in (
        (not tuned(recipe), "is for the last blocks of lite0, lite1 or lite2; leave it out"),
        (not loss.soft, f"--loss {recipe.loss} wants one label; take cross_entropy, or 0"),
        (both, "--mix or --targets online changes the targets, too; leave one of them out, or 0"),
    ):
        yield recipe.mix_maps and wrong, f"{_flag(recipe, 'mix_maps')}: {why}"
    if tuned(recipe):
        yield (
            recipe.teacher is not None,
            f"--teacher: sees whole images, the last blocks of {model} only maps; add "
            f"another --model, for example {entry.untrained.removeprefix('--model ')} --pretrained",
        )
    least = max(4, entry.least) if entry.any_size else size
    yield (
        recipe.window and recipe.window < least,
        f"--window {recipe.window} --model {model}: takes no images under {least} px; "
        "leave --window out, or choose a larger one",
    )


def resolve(recipe: Recipe, facts: Facts, *, low_precision: bool = False) -> Recipe:
    """The recipe with every field that matters set; resolving twice changes nothing.

    low_precision: whether the machine gains from bfloat16. A frozen body needs no optimiser, so
    those fields stay unset. Raises LevelheadError for an unknown loss or contradicting flags.
    """
    find_loss(recipe.loss).options(recipe.smoothing, knobs=recipe.loss_knobs)
    if recipe.teacher is not None:  # each seed its own
        recipe = recipe.replace(teacher=recipe.teacher.replace("{seed}", str(recipe.seed)))
    _refuse(*_contradictions(recipe))
    for name in FILES:
        if (path := getattr(recipe, name)) not in (None, "frequency"):  # found from any folder
            recipe = recipe.replace(**{name: str(Path(path).expanduser().absolute())})
    recipe = choose_model(recipe, facts)
    size = recipe.image_size or facts.size
    if recipe.finetune is None:
        tunes = entry_of(recipe).tunable is not None and recipe.teacher is None
        recipe = recipe.replace(finetune=tunes and facts.examples >= LEAST_TUNED)
    elif recipe.finetune and recipe.weights is None and facts.examples < LEAST_TUNED:
        recipe = recipe.replace(finetune=False)
    _refuse(*_model_refusals(recipe, size, facts.channels))
    if frozen(recipe):
        return recipe.replace(precision=recipe.precision or "float32")
    if recipe.mix_alpha is None:
        recipe = recipe.replace(mix_alpha=MIX_ALPHA.get(recipe.mix))
    if tuned(recipe) and recipe.mix_maps is None:
        # One label cannot be mixed, nor targets that are learnt, nor what is mixed already.
        whole = recipe.mix == "none" and recipe.targets != "online"
        mixes = whole and find_loss(recipe.loss).soft
        recipe = recipe.replace(mix_maps=TUNED_ALPHA if mixes else 0.0)
    chosen = _chosen(recipe, facts, size, low_precision)
    batch = min(recipe.batch_size or chosen["batch_size"], facts.examples)
    unset = {name: value for name, value in chosen.items() if getattr(recipe, name) is None}
    recipe = recipe.replace(**{**unset, "batch_size": batch})
    drawn = recipe.crop or recipe.flip or any(getattr(recipe, n) != PLAIN[n] for n in MOST_MOVED)
    _refuse(
        (
            recipe.tta == "draws" and not drawn,
            "--tta draws: training draws nothing that an answer could; give --crop, --flip or "
            "--rotation",
        )
    )
    return recipe


def _chosen(recipe: Recipe, facts: Facts, size: int, low_precision: bool) -> dict[str, Any]:
    """What the model takes on this data, for the fields that a recipe may leave open."""
    entry = entry_of(recipe)
    chosen: dict[str, Any] = dict(FINETUNE if recipe.finetune else entry.defaults)
    if facts.examples < SMALL and recipe.batch_size is None:
        # About 20 steps in an epoch, but never batches of under 16.
        power = int(math.log2(max(1, facts.examples / 20)))
        chosen["batch_size"] = max(16, min(chosen["batch_size"], 2**power))
    batch = min(recipe.batch_size or chosen["batch_size"], facts.examples)
    if facts.examples < SMALL and not recipe.finetune:
        steps = -(-facts.examples // batch)
        chosen["epochs"] = max(chosen["epochs"], -(-LEAST_STEPS // steps))
    if entry.decay is not None and not recipe.finetune:
        chosen["weight_decay"] = entry.decay(batch)
    moves = entry.moves(size, facts.channels)
    chosen |= {"crop": moves.crop, "flip": moves.flip, "cutout": 0, "window": moves.window}
    if tuned(recipe):
        chosen["crop"] = 0  # the front makes its maps once
    gains = low_precision and entry.low_precision and size >= 16
    chosen["precision"] = "bfloat16" if gains else "float32"
    if recipe.optimizer is not None and recipe.optimizer != chosen["optimizer"]:
        chosen |= OTHER_OPTIMIZER[recipe.optimizer]
    if recipe.schedule == "one-cycle":
        chosen["warmup"] = 0.3
    return chosen
