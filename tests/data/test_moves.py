"""Warps, lights, policies, views: each against torchvision, and what a class or a seed decides."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from levelhead.data import light, policies, warp
from levelhead.data.batches import Augmentation, Batch, TrainingBatches
from levelhead.data.views import MIRROR, WHOLE, Shifted, crops, draws
from levelhead.recipe import MOST_MOVED, Recipe
from levelhead.training.augmentation import STILL, augmentation_of, shown
from levelhead.training.defaults import augments

policies.POLICIES["randaugment"]()  # imports torchvision beside a torch of another build, too
from torchvision.transforms.v2 import functional as published  # noqa: E402

few = settings(max_examples=25, deadline=None)
CPU = torch.device("cpu")


def pictures(n: int, side: int = 16, channels: int = 3, seed: int = 0) -> torch.Tensor:
    """float32 [N,C,H,W] of 0-255, smooth: what an inch of an angle changes is little."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand((n, channels, 4, 4), generator=generator) * 255
    return torch.nn.functional.interpolate(small, side, mode="bicubic").clamp(0, 255)


def one(**strengths: float) -> dict[str, torch.Tensor]:
    return {name: torch.tensor([value]) for name, value in strengths.items()}


def draw(**places: float) -> torch.Tensor:
    """Draws in the middle of their range, but for those named by their number."""
    numbers = torch.full((1, warp.DRAWS), 0.5)
    for name, value in places.items():
        numbers[0, int(name.removeprefix("n"))] = value
    return numbers


# --- warps ---------------------------------------------------------------------------------------


@few
@given(
    turn=st.floats(-1, 1),
    slope=st.floats(-1, 1),
    down=st.floats(-1, 1),
    right=st.floats(-1, 1),
    side=st.integers(5, 24),
)
def test_a_warp_is_torchvisions_affine(turn, slope, down, right, side):
    """If this fails, an image is turned, sheared or shifted by another amount than was said."""
    image = pictures(1, side)
    numbers = draw(n0=(turn + 1) / 2, n1=(slope + 1) / 2, n2=(right + 1) / 2, n3=(down + 1) / 2)
    matrix = warp.matrices(one(rotation=40.0, shear=20.0, shift=0.25), numbers)
    ours = warp.warp(image, matrix, "constant")
    theirs = published.affine(
        image,
        angle=40 * turn,
        translate=[0, 0],
        scale=1.0,
        shear=[-20 * slope, 0],
        interpolation=published.InterpolationMode.BILINEAR,
    )
    if abs(down) + abs(right) < 1e-9:
        torch.testing.assert_close(ours, theirs, atol=0.05, rtol=0)
    # Shifts of a fraction of a pixel are not torchvision's: they are a lookup shifted by as much.
    still = warp.matrices(one(rotation=40.0, shear=20.0), numbers)
    torch.testing.assert_close(warp.warp(image, still, "constant"), theirs, atol=0.05, rtol=0)
    moved = torch.eye(3)[None].clone()
    moved[0, :2, 2] = -2 * 0.25 * torch.tensor([right, down])
    torch.testing.assert_close(matrix, still @ moved, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("fill", sorted(warp.PADDING))
def test_a_shift_shows_what_was_asked_beyond_the_border(fill):
    """If this fails, the strip that a shift bares is not the border's, its mirror or the colour."""
    row = torch.tensor([10.0, 20, 30, 40]).expand(1, 1, 4, 4)
    matrix = warp.matrices(one(shift=0.5), draw(n2=1.0))  # half a side to the right
    wanted = {"nearest": [10, 10, 10, 20], "reflect": [20, 10, 10, 20], "constant": [7, 7, 10, 20]}
    made = warp.warp(row, matrix, fill, torch.tensor([7.0]))
    torch.testing.assert_close(made[0, 0, 1], torch.tensor(wanted[fill], dtype=torch.float32))


@few
@given(seed=st.integers(0, 99), strength=st.floats(0.05, 0.8))
def test_a_tilt_is_torchvisions_perspective(seed, strength):
    """If this fails, corners do not come to where the draw put them."""
    image, side = pictures(1, 32, seed=seed), 32
    numbers = draw()
    numbers[0, 4:12] = torch.rand(8, generator=torch.Generator().manual_seed(seed))
    corners = torch.tensor([[-1.0, -1], [1, -1], [1, 1], [-1, 1]])
    ends = corners * (1 - strength * numbers[0, 4:12].reshape(4, 2))
    pixels = [((p + 1) * side / 2).tolist() for p in (corners, ends)]
    theirs = published.perspective(
        image, *pixels, interpolation=published.InterpolationMode.BILINEAR, fill=0
    )
    ours = warp.warp(image, warp.matrices(one(perspective=strength), numbers), "constant")
    inside = theirs > 0  # the seam to the fill is mixed otherwise
    assert float((ours - theirs)[inside].abs().median()) < 0.05


def test_a_crop_is_the_window_resized():
    """If this fails, a random resized crop shows another part of the image, or less than said."""
    image = pictures(1, 16)
    numbers = draw(n12=0.0, n14=1.0, n15=0.0)  # the least area, to the right, at the top
    matrix = warp.matrices(one(scale=0.25), numbers)
    window = image[:, :, :8, 8:]
    wanted = torch.nn.functional.interpolate(window, 16, mode="bilinear")
    # Inside of the window: at its rim `interpolate` knows nothing of what lies beyond.
    torch.testing.assert_close(
        warp.warp(image, matrix, "nearest")[..., 1:-1, 1:-1], wanted[..., 1:-1, 1:-1]
    )
    areas = []
    for seed in range(300):
        numbers = torch.rand((1, warp.DRAWS), generator=torch.Generator().manual_seed(seed))
        made = warp.matrices(one(scale=0.3), numbers)[0]
        across, along = float(made[0, 0]), float(made[1, 1])
        assert abs(float(made[0, 2])) <= 1 - across + 1e-6
        assert abs(float(made[1, 2])) <= 1 - along + 1e-6
        assert 3 / 4 - 1e-6 <= across / along <= 4 / 3 + 1e-6
        areas.append(across * along)
    assert min(areas) > 0.3 - 1e-6
    assert max(areas) < 1 + 1e-6
    assert abs(np.mean(areas) - 0.65) < 0.03


def test_moves_that_do_nothing_change_nothing():
    """If this fails, a class whose strengths are 0 is blurred by the resampling of the others."""
    images = pictures(3).round()
    strengths = {name: torch.full((3,), STILL[name]) for name in MOST_MOVED}
    numbers = torch.rand((3, warp.DRAWS))
    made = warp.warp(images, warp.matrices(strengths, numbers), "reflect")
    torch.testing.assert_close(made, images, atol=1e-3, rtol=0)
    torch.testing.assert_close(light.relight(images, strengths, torch.rand(3, 3)), images)


# --- lights --------------------------------------------------------------------------------------


@few
@given(u=st.floats(0, 1), strength=st.floats(0.05, 1), seed=st.integers(0, 20))
def test_lights_are_torchvisions(u, strength, seed):
    """If this fails, brightness, contrast or colour mean something else than in torchvision."""
    image, factor = pictures(1, seed=seed) / 255, 1 + (2 * u - 1) * strength
    for place, (name, theirs) in enumerate(
        (
            ("brightness", published.adjust_brightness),
            ("contrast", published.adjust_contrast),
            ("colour", published.adjust_saturation),
        )
    ):
        numbers = torch.full((1, 3), 0.5)
        numbers[0, place] = u
        ours = light.relight(image * 255, one(**{name: strength}), numbers) / 255
        torch.testing.assert_close(ours, theirs(image, factor), atol=2e-3, rtol=0)


def test_noise_has_the_deviation_that_was_asked():
    """If this fails, --pixel-noise 0.1 is not a tenth of white."""
    grey = torch.full((4, 3, 40, 40), 127.5)
    noise = torch.randn(grey.shape, generator=torch.Generator().manual_seed(0))
    made = light.relight(grey, one(pixel_noise=0.1), torch.full((4, 3), 0.5), noise)
    assert abs(float(made.std()) - 25.5) < 0.3


# --- policies ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(policies.POLICIES))
@pytest.mark.parametrize("channels", [1, 3])
def test_policies_are_a_function_of_the_seed_alone(name, channels):
    """If this fails, a resumed run sees other images, or dropout draws other units for a policy."""
    images = pictures(12, channels=channels).byte()
    torch.manual_seed(3)
    first = policies.apply(images, name, 5)
    after = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(after, torch.rand(1)), "torch's own stream must be put back"
    assert torch.equal(policies.apply(images, name, 5), first)
    assert first.dtype == torch.uint8
    assert first.shape == images.shape
    assert not torch.equal(policies.apply(images, name, 6), first)
    changed = (first != images).flatten(1).any(1)
    assert int(changed.sum()) >= 3, "most images are changed, each by a draw of its own"


# --- batches -------------------------------------------------------------------------------------


def whole(n: int = 60, classes: int = 3, side: int = 8) -> Batch:
    labels = torch.arange(n) % classes
    return Batch(pictures(n, side).byte(), labels, torch.arange(n))


def epochs(augmentation: Augmentation, split: Batch, seed: int = 0, **more) -> torch.Tensor:
    """All images of epoch 4, in the split's order."""
    batches = TrainingBatches(split, 16, augmentation, seed, CPU, **more)
    images = torch.empty(split.images.shape)
    for batch in batches(4):
        images[batch.index] = batch.images.float()
    return images


@pytest.mark.parametrize("name", [*MOST_MOVED, "policy"])
def test_every_move_reaches_the_network(name):
    """If this fails, a flag of augmentation is read and changes nothing, or changes by chance."""
    value = {"scale": 0.5, "rotation": 30.0, "shear": 20.0, "policy": "trivialaugment"}.get(
        name, 0.3
    )
    chosen = Recipe("x", **{name: value, "batch_size": 16, "epochs": 8})
    split = whole()
    made = augmentation_of(chosen, torch.full((3,), 100.0))
    assert augments(chosen)
    once, again = epochs(made, split), epochs(made, split)
    assert torch.equal(once, again)
    assert float((once - split.images.float()).abs().max()) > 1
    assert float(once.min()) >= -1e-3
    assert float(once.max()) <= 255 + 1e-3
    assert not torch.equal(epochs(made, split, seed=1), once)


def test_strengths_by_class(tmp_path):
    """If this fails, --augment-by-class moves the classes that it does not name, or not its own."""
    table = tmp_path / "moves.csv"
    table.write_text("class,rotation,pixel_noise\nb,90,0\nc,0,0.5\n")
    chosen = Recipe("x", batch_size=16, epochs=8, augment_by_class=str(table))
    split = whole()
    made = epochs(augmentation_of(chosen, None, ("a", "b", "c")), split)
    apart = (made - split.images.float()).abs().flatten(1).mean(1)
    by_class = [apart[split.labels == k] for k in range(3)]
    assert float(by_class[0].max()) < 1e-3
    assert float(by_class[1].median()) > 3
    assert float(by_class[2].min()) > 20
    more = augmentation_of(replace(chosen, rotation=10.0), None, ("a", "b", "c"))
    assert more.strengths["rotation"].tolist() == [10, 90, 0]


def test_balanced_draws():
    """If this fails, --sampler balanced shows a class more often than the others, or shows copies
    of an image moved alike."""
    labels = torch.tensor([0] * 90 + [1] * 8 + [2] * 2)
    split = Batch(pictures(100, 8).byte(), labels, torch.arange(100))
    moves = augmentation_of(Recipe("x", pixel_noise=0.2, rotation=40.0))
    batches = TrainingBatches(split, 20, moves, 0, CPU, balanced=True)
    counts = torch.zeros(3)
    for epoch in range(30):
        seen = list(batches(epoch))
        assert sum(map(len, seen)) == 100
        for batch in seen:
            counts += torch.bincount(batch.labels, minlength=3)
            assert torch.equal(batch.labels, labels[batch.index])
    # 3,000 draws of three: a deviation of 26.
    assert (counts - 1000).abs().max() < 110
    batch = next(batches(0))
    rare = [image for image, k in zip(batch.images, batch.index.tolist(), strict=True) if k >= 98]
    assert len(rare) > 2
    assert not torch.allclose(rare[0], rare[1])


def test_what_is_shown_is_what_training_sees():
    """If this fails, the page shows other moves than those that the network was trained on."""
    from levelhead.data.entries import Examples

    images = pictures(4, 8).byte().permute(0, 2, 3, 1).numpy()
    examples = Examples(images, np.arange(4), tuple("abcd"), np.zeros(4, np.uint64))
    chosen = Recipe("x", rotation=30.0, flip=True, epochs=20, batch_size=4, mix="cutmix")
    at, rows = shown(chosen, examples, tuple("abcd"), columns=5)
    assert at == [1, 6, 11, 15, 20] or at == [1, 6, 10, 15, 20]
    assert all(len(row) == 6 for row in rows)
    assert all(np.array_equal(row[0], image) for row, image in zip(rows, images, strict=True))
    assert all(image.dtype == np.uint8 for row in rows for image in row)
    assert len({image.tobytes() for image in rows[0]}) == 6


# --- views ---------------------------------------------------------------------------------------


def test_views_of_the_mirror():
    """If this fails, test-time flipping averages something else than an image and its mirror."""
    images = torch.arange(6).reshape(1, 1, 2, 3)
    assert [v.tolist() for v in WHOLE(images)] == [images.tolist()]
    plain, mirrored = MIRROR(images)
    assert torch.equal(plain, images)
    assert mirrored.tolist() == [[[[2, 1, 0], [5, 4, 3]]]]


def test_crops_are_the_padded_images_windows():
    """If this fails, the ten views are not the corners and the middle, each with its mirror."""
    images = pictures(2, 16)
    views = crops(16, mirrored=True)
    assert len(views.moves) == 10
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2), mode="reflect")
    corners = [padded[:, :, y : y + 16, x : x + 16] for y in (0, 4) for x in (0, 4)]
    for view, wanted in zip(views(images), [images, *corners], strict=False):
        assert torch.equal(view, wanted)
    assert torch.equal(views(images)[7], corners[1].flip(3))
    assert len(crops(16, mirrored=False).moves) == 5


def test_draws_are_fixed_and_inside_the_trainings_range():
    """If this fails, the answer to an image depends on when it is asked, or on its neighbours."""
    moves = Augmentation(crop=2, flip=True, strengths=one(rotation=20.0, brightness=0.3))
    views = draws(moves, 6, 3, 1.0, "logits")
    images = pictures(5, 16)
    together, alone = views(images), views(images[2:3])
    for both, single in zip(together, alone, strict=True):
        torch.testing.assert_close(both[2:3], single, atol=1e-3, rtol=1e-4)
    assert len({view.sum().item() for view in alone}) == 6
    again = draws(moves, 6, 3, 1.0, "logits")
    assert again.key == views.key
    assert all(torch.equal(a, b) for a, b in zip(again(images), together, strict=True))
    assert draws(moves, 6, 4, 1.0, "logits").key != views.key
    for view in views.moves:
        assert abs(view.first.down) <= 2
        assert abs(view.first.right) <= 2
        turned = math.degrees(math.atan2(-view.matrix[0, 1, 0], view.matrix[0, 1, 1]))
        assert abs(turned) <= 20 + 1e-4


@pytest.mark.parametrize("average", ["logits", "probabilities"])
def test_what_is_averaged(average):
    """If this fails, averages of logits and of probabilities are one and the same, or mixed up."""
    generator = torch.Generator().manual_seed(0)
    head = torch.nn.Linear(5, 3)
    by_view = [torch.randn((7, 5), generator=generator) * 3 for _ in range(4)]
    scores, mean = replace(WHOLE, average=average).scores(by_view, head)
    logits = torch.stack([head(one) for one in by_view])
    if average == "logits":
        torch.testing.assert_close(scores, logits.mean(0), rtol=1e-4, atol=1e-5)
    else:
        torch.testing.assert_close(scores.softmax(1), logits.softmax(2).mean(0))
        torch.testing.assert_close(scores.exp().sum(1), torch.ones(7))
    torch.testing.assert_close(mean, torch.stack(by_view).mean(0))


def test_a_shifted_view_keeps_to_the_image():
    """If this fails, a shift further than the image ends in an error instead of its mirror."""
    image = pictures(1, 4)
    assert Shifted(9, -9)(image).shape == image.shape
