"""Augmentation and batches: every image once an epoch, moved as said, the same each time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from levelhead.data.augment import crop_and_flip, cutout, reflect
from levelhead.data.batches import Batch, as_batch, count, plain_batches, seeded
from levelhead.data.entries import Examples
from levelhead.recipe import Recipe
from levelhead.training.augmentation import batches_of

few = settings(max_examples=25, deadline=None)
CPU = torch.device("cpu")


def training_batches(
    data: Batch, chosen: Recipe, epoch: int, fill: torch.Tensor | None = None
) -> Iterator[Batch]:
    """One epoch of what a recipe asks for."""
    return batches_of(data, chosen, CPU, fill)(epoch)


def pictures(n: int, height: int, width: int, channels: int = 3, seed: int = 0) -> torch.Tensor:
    """uint8 [N,H,W,C]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, height, width, channels), generator=generator).byte()


def as_split(images: torch.Tensor, labels: torch.Tensor) -> Batch:
    """Images [N,H,W,C] as the batch of a whole split."""
    return Batch(images.permute(0, 3, 1, 2), labels, torch.arange(len(labels)))


def split(n: int, size: int = 6, channels: int = 1) -> Batch:
    """A split whose image i can be told from every other."""
    images = pictures(n, size, size, channels)
    images[:, 0, 0, 0] = torch.arange(n) % 256
    images[:, 0, 1, 0] = torch.arange(n) // 256
    return as_split(images, torch.arange(n) % 7)


def recipe(**changes) -> Recipe:
    """A resolved recipe, as far as batches look at it."""
    chosen = {"batch_size": 10, "crop": 0, "flip": False, "cutout": 0}
    return Recipe("digits", **{**chosen, **changes})


# --- augmentation --------------------------------------------------------------------------------


@few
@given(
    height=st.integers(2, 9),
    width=st.integers(2, 9),
    channels=st.sampled_from([1, 3]),
    pad=st.integers(0, 4),
    flips=st.booleans(),
    seed=st.integers(0, 999),
)
def test_crop_and_flip_is_pad_slice_flip(height, width, channels, pad, flips, seed):
    """If this fails, the one-gather crop is not torch's reflect padding, slice and mirror."""
    pad = min(pad, height - 1, width - 1)  # torch reflects once only
    generator = torch.Generator().manual_seed(seed)
    images = pictures(5, height, width, channels, seed)
    index = torch.randint(0, 5, (7,), generator=generator)
    shift = torch.randint(0, 2 * pad + 1, (7, 2), generator=generator)
    mirror = torch.rand(7, generator=generator) < 0.5
    ours = crop_and_flip(
        images.permute(0, 3, 1, 2), index, shift if pad else None, mirror if flips else None, pad
    )
    for i, j in enumerate(index.tolist()):
        one = images[j].permute(2, 0, 1).float()[None]
        one = F.pad(one, (pad,) * 4, mode="reflect")
        top, left = shift[i].tolist() if pad else (0, 0)
        one = one[0, :, top : top + height, left : left + width].byte()
        if flips and mirror[i]:
            # Mirrored first or last: the same set of images, as shifts are symmetric.
            flipped = images[j].flip(1).permute(2, 0, 1).float()[None]
            flipped = F.pad(flipped, (pad,) * 4, mode="reflect").byte()
            options = [
                one.flip(2),
                flipped[0, :, top : top + height, left : left + width],
            ]
            assert any(torch.equal(ours[i], option) for option in options)
        else:
            assert torch.equal(ours[i], one)
    assert ours.dtype == torch.uint8
    assert ours.shape == (7, channels, height, width)
    assert ours.is_contiguous(memory_format=torch.channels_last)


def test_crop_moves_only_as_far_as_said():
    """If this fails, shift = pad moves the image, or rows and columns are swapped."""
    images = pictures(1, 8, 8, 1)
    zero = torch.zeros(1, dtype=torch.int64)
    still = crop_and_flip(images.permute(0, 3, 1, 2), zero, torch.tensor([[2, 2]]), None, 2)
    assert torch.equal(still[0, 0], images[0, :, :, 0])
    down = crop_and_flip(images.permute(0, 3, 1, 2), zero, torch.tensor([[4, 2]]), None, 2)
    assert torch.equal(down[0, 0, :6], images[0, 2:, :, 0])
    right = crop_and_flip(images.permute(0, 3, 1, 2), zero, torch.tensor([[2, 3]]), None, 2)
    assert torch.equal(right[0, 0, :, :7], images[0, :, 1:, 0])


@few
@given(size=st.integers(1, 9), pad=st.integers(0, 30))
def test_reflect_is_numpys(size, pad):
    """If this fails, borders wider than the image are mirrored wrongly, or out of range."""
    ours = reflect(torch.arange(-pad, size + pad), size)
    assert ours.tolist() == np.pad(np.arange(size), pad, mode="reflect").tolist()


@few
@given(side=st.integers(1, 12), seed=st.integers(0, 99))
def test_cutout_is_the_square_written_out(side, seed):
    """If this fails, cutout paints another square, another colour, or the wrong channel."""
    generator = torch.Generator().manual_seed(seed)
    images = pictures(4, 7, 9, 3, seed).permute(0, 3, 1, 2)
    centre = torch.stack(
        [
            torch.randint(0, 7, (4,), generator=generator),
            torch.randint(0, 9, (4,), generator=generator),
        ],
        1,
    )
    fill = torch.tensor([10.0, 20.0, 30.0])
    made = cutout(images, centre, side, fill)
    assert made.dtype == torch.uint8
    wanted = images.clone().numpy()
    for i, (row, column) in enumerate(centre.tolist()):
        for y in range(7):
            for x in range(9):
                top, left = row - side // 2, column - side // 2
                if top <= y < top + side and left <= x < left + side:
                    wanted[i, :, y, x] = (10, 20, 30)
    assert np.array_equal(made.numpy(), wanted)


# --- batches -------------------------------------------------------------------------------------


@few
@given(
    n=st.integers(1, 80),
    batch=st.integers(1, 100),
    epoch=st.integers(0, 20),
    seed=st.integers(0, 2**40),
    moved=st.booleans(),
)
def test_every_example_once_an_epoch_in_even_batches(n, batch, epoch, seed, moved):
    """If this fails, some images are skipped or seen twice, or a tiny batch upsets batch norm."""
    data = split(n)
    chosen = recipe(batch_size=batch, seed=seed, crop=2 * moved, flip=moved)
    made = list(training_batches(data, chosen, epoch))
    sizes = [len(b.labels) for b in made]
    assert len(made) == count(n, batch)
    assert max(sizes) <= batch
    assert max(sizes) - min(sizes) <= 1
    index = torch.cat([b.index for b in made])
    assert sorted(index.tolist()) == list(range(n))
    for b in made:
        assert torch.equal(b.labels, data.labels[b.index]), "labels must follow their images"
        if not moved:
            assert torch.equal(b.images, data.images[b.index])


def test_order_depends_on_seed_and_epoch_only():
    """If this fails, a resumed run sees other batches, or every epoch is the same."""
    data = split(60, channels=3)
    chosen = recipe(seed=3, crop=2, flip=True, cutout=3)
    fill = torch.tensor([1.0, 2.0, 3.0])

    def epoch(number, **changes):
        torch.rand(number + 1)  # torch's own stream must not matter
        made = list(training_batches(data, chosen.replace(**changes), number, fill))
        return torch.cat([b.images for b in made]), torch.cat([b.index for b in made])

    torch.manual_seed(1)
    first = epoch(4)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    list(training_batches(data, chosen, 4, fill))
    assert torch.equal(state, torch.get_rng_state())
    again = epoch(4)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[1], epoch(5)[1])
    assert not torch.equal(first[1], epoch(4, seed=4)[1])
    # What is no business of the order: smoothing, learning rate, and the data's contents.
    assert torch.equal(first[1], epoch(4, smoothing=0.1, lr=0.5)[1])


def test_flips_alternate():
    """If this fails, an image is mirrored twice running: alternating flip's gain is lost."""
    data = split(200, size=4)
    chosen = recipe(flip=True, batch_size=64)
    mirrored = np.zeros((4, 200), bool)
    for number in range(4):
        for b in training_batches(data, chosen, number):
            plain = data.images[b.index]
            same = (b.images == plain).flatten(1).all(1)
            back = (b.images == plain.flip(3)).flatten(1).all(1)
            assert (same | back).all()
            mirrored[number, b.index.numpy()] = back & ~same
    assert np.array_equal(mirrored[0], ~mirrored[1])
    assert np.array_equal(mirrored[0], mirrored[2])
    assert np.array_equal(mirrored[1], mirrored[3])
    assert 60 < mirrored[0].sum() < 140, "about half start mirrored"
    other = next(iter(training_batches(data, chosen.replace(seed=1), 0)))
    assert len(other.labels) == 50


def test_crops_reach_every_corner_and_are_uniform():
    """If this fails, some shifts never happen: the crop is narrower than --crop says."""
    n = 4000
    images = torch.zeros(n, 9, 9, 1, dtype=torch.uint8)
    images[:, 4, 4] = 255
    chosen = recipe(crop=2, batch_size=500)
    where = np.zeros((9, 9), int)
    for b in training_batches(as_split(images, torch.zeros(n, dtype=torch.int64)), chosen, 0):
        for row, column in b.images[:, 0].nonzero()[:, 1:].tolist():
            where[row, column] += 1
    assert where.sum() == n
    assert (where[2:7, 2:7] > n / 25 * 0.6).all()
    assert where[2:7, 2:7].sum() == n


@pytest.mark.parametrize("flips", [False, True])
def test_windows_are_cut_from_the_padded_picture(flips):
    """If this fails, the windows of the first epochs are no windows of the image."""
    images = pictures(6, 8, 10, 3)
    shift = torch.tensor([[0, 0], [1, 2], [4, 5], [5, 8], [2, 3], [7, 9]])
    mirror = torch.tensor([False, True, False, True, True, False])
    made = crop_and_flip(
        images.permute(0, 3, 1, 2),
        torch.arange(6),
        shift,
        mirror if flips else None,
        2,
        window=(5, 4),
    )
    assert made.shape == (6, 3, 5, 4)
    for i, (top, left) in enumerate(shift.tolist()):
        one = F.pad(images[i].permute(2, 0, 1).float()[None], (2,) * 4, mode="reflect")[0]
        options = [one[:, top : top + 5, left : left + 4]]
        if flips and mirror[i]:
            turned = images[i].flip(1).permute(2, 0, 1).float()[None]
            turned = F.pad(turned, (2,) * 4, mode="reflect")[0]
            options = [options[0].flip(2), turned[:, top : top + 5, left : left + 4]]
        assert any(torch.equal(made[i].float(), option) for option in options)


def test_windows_come_first_and_whole_pictures_last():
    """If this fails, the last epochs do not show whole images, as the test does."""
    data = split(40, size=12, channels=3)
    chosen = recipe(window=7, epochs=8, crop=1, flip=True, cutout=3)
    sides = []
    for epoch in range(8):
        batches_ = list(training_batches(data, chosen, epoch, torch.zeros(3)))
        (side,) = {tuple(b.images.shape[2:]) for b in batches_}
        assert side[0] == side[1]
        sides.append(side[0])
        assert sorted(torch.cat([b.index for b in batches_]).tolist()) == list(range(40))
    assert set(sides) == {7, 12}
    assert sides == sorted(sides)
    assert sides[-1] == 12
    larger = next(training_batches(data, chosen.replace(window=99, crop=0), 0, torch.zeros(3)))
    assert larger.images.shape[2:] == (12, 12)
    alone = recipe(window=7, epochs=8)  # without a border the window still moves
    places = set()
    for b in training_batches(data, alone, 0):
        for image, plain in zip(b.images, data.images[b.index], strict=True):
            places |= {
                (top, left)
                for top in range(6)
                for left in range(6)
                if torch.equal(image, plain[:, top : top + 7, left : left + 7])
            }
    assert len(places) > 15


def test_cutout_reaches_the_batches():
    """If this fails, --cutout does nothing, or paints every image in one place."""
    data = as_split(torch.full((300, 8, 8, 3), 200, dtype=torch.uint8), torch.zeros(300).long())
    fill = torch.tensor([5.0, 6.0, 7.0])
    painted = []
    for b in training_batches(data, recipe(cutout=3, batch_size=100), 0, fill):
        hidden = b.images != 200
        assert torch.equal(hidden[:, 0], hidden[:, 2])
        for channel in range(3):
            assert (b.images[:, channel][hidden[:, channel]] == 5 + channel).all()
        painted.append(hidden[:, 0])
    hidden = torch.cat(painted)
    assert (hidden.flatten(1).sum(1) >= 4).all()  # at a corner 2 x 2 are left
    assert (hidden.flatten(1).sum(1) <= 9).all()
    assert hidden.any(0).all(), "every pixel is hidden in some image"
    (only,) = training_batches(data, recipe(cutout=3, batch_size=300), 0, None)
    assert (only.images == 200).all(), "without a colour there is nothing to paint"


def test_oblong_pictures():
    """If this fails, height and width are mixed up somewhere between split and batch."""
    images = pictures(12, 5, 9, 3)
    data = as_split(images, torch.arange(12))
    for b in training_batches(data, recipe(crop=2, flip=True, cutout=2), 0, torch.zeros(3)):
        assert b.images.shape[1:] == (3, 5, 9)


def test_plain_batches_are_the_split_untouched():
    """If this fails, judging looks at other images, or in another order."""
    data = split(23, channels=3)
    made = list(plain_batches(data, 10, CPU))
    assert [len(b.labels) for b in made] == [10, 10, 3]
    assert torch.equal(torch.cat([b.index for b in made]), torch.arange(23))
    assert torch.equal(torch.cat([b.images for b in made]), data.images)
    assert torch.equal(torch.cat([b.labels for b in made]), data.labels)


def test_a_split_is_made_of_the_mapped_cache(tmp_path):
    """If this fails, images straight from the cache make torch warn, or are copied."""
    images = pictures(4, 3, 3, 1).numpy()
    np.save(tmp_path / "x.npy", images)
    images = np.load(tmp_path / "x.npy", mmap_mode="c")  # as the cache gives them
    examples = Examples(images, np.arange(4), tuple("abcd"), np.arange(4, dtype=np.uint64))
    torch.set_warn_always(True)  # torch says it once a process, else
    try:
        data = as_batch(examples, CPU)
    finally:
        torch.set_warn_always(False)
    assert len(data) == 4
    assert data.images.data_ptr() == images.ctypes.data
    (b,) = training_batches(data, recipe(crop=1, flip=True), 0)
    assert len(b.labels) == 4


def test_seeded_streams_are_apart():
    """If this fails, seed 1 epoch 2 and seed 12 (say) share their random numbers."""
    drawn = {
        tuple(torch.randint(0, 2**40, (3,), generator=seeded(*numbers)).tolist())
        for numbers in [(1, 2), (12,), (1, -2), (2, 1), (1,), (1, 2, 0), (0,), ()]
    }
    assert len(drawn) == 8
    one, two = seeded(7, 8), seeded(7, 8)
    assert torch.equal(torch.rand(5, generator=one), torch.rand(5, generator=two))
    seeded(2**70)  # seeds of any size
