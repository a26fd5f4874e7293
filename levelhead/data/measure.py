"""What all images of a data set have in common: size, channels, how many of 16 bits they use."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from levelhead.data.cache import on_all_cores
from levelhead.data.decode import DEEP, GREY, Broken, brightest, header, reason
from levelhead.data.entries import Entries
from levelhead.errors import LevelheadError
from levelhead.text import count

SAMPLE = 200


@dataclass(frozen=True)
class Measures:
    """Median short side in pixels of a sample; 1 channel if all are grey, else 3; bits in use."""

    size: int
    channels: int
    bits: int = 16
    notes: tuple[str, ...] = ()


def measure(splits: Mapping[str, Entries]) -> Measures:
    """Measure images by their headers: a sample, and all of them where the sample is grey or deep.

    Images of 16 bits are decoded to find the brightest value. Raises LevelheadError if none of the
    sample can be read.
    """
    train = splits["train"]
    if train.images is not None:
        return Measures(min(train.images.shape[1:3]), train.images.shape[3])
    headers, why = _sample(train)
    if not headers:
        raise LevelheadError(
            f"{why}; nor can any of {count(min(SAMPLE, len(train)), 'image')} tried be read"
        )
    size = int(statistics.median(min(width, height) for _, width, height in headers))
    modes = {mode for mode, _, _ in headers}
    grey, deep = modes <= GREY, bool(modes & DEEP)
    if not grey and not deep:
        return Measures(size, 3)
    colour, deep_ones = _look_at_all(splits, stop_at_colour=not deep)
    notes = []
    if colour and grey:
        notes.append(f"{colour} is in colour, most others are grey: all are read in colour.")
    bits, remarks = _bits(splits, deep_ones)
    return Measures(size, 3 if colour or not grey else 1, bits, (*notes, *remarks))


def _sample(entries: Entries) -> tuple[list[tuple[str, int, int]], str]:
    """The headers of up to 200 images, and why the first of the others cannot be read."""
    assert entries.read is not None
    # Eight runs of neighbours: a shard's row groups are read whole.
    run = max(SAMPLE // 8, 1)
    starts = np.linspace(0, max(len(entries) - run, 0), 8).astype(int)
    index = sorted({i for start in starts for i in range(start, min(start + run, len(entries)))})
    headers, why = [], ""
    for i in index:
        try:
            with entries.read.open(i) as stream:
                headers.append(header(stream))
        except (Broken, OSError) as error:
            why = why or f"{entries.ids[i]}: {reason(error)}"
    return headers, why


def _look_at_all(
    splits: Mapping[str, Entries], *, stop_at_colour: bool
) -> tuple[str, dict[str, list[int]]]:
    """The id of a colour image, or "", and which images have 16 bits, by split."""
    colour, deep = "", {}
    for split, entries in splits.items():
        modes, colours = _modes(entries, stop_at_colour)
        colour = colour or min(colours, default="")
        deep[split] = [i for i, mode in enumerate(modes) if mode in DEEP]
        if colour and stop_at_colour:
            break
    return colour, deep


def _modes(entries: Entries, stop_at_colour: bool) -> tuple[list[str], list[str]]:
    """The mode of each image, "" where it was not looked at, and the ids of colour images."""
    colours: list[str] = []
    read = entries.read
    assert read is not None

    def mode_of(i: int) -> str:
        if stop_at_colour and colours:
            return ""
        try:
            with read.open(i) as stream:
                mode = header(stream)[0]
        except (Broken, OSError):
            return ""
        if mode not in GREY:
            colours.append(entries.ids[i])
        return mode

    return on_all_cores(mode_of, len(entries)), colours


def _bits(splits: Mapping[str, Entries], deep: Mapping[str, list[int]]) -> tuple[int, list[str]]:
    """How many bits the brightest of the 16-bit images needs, at least 8; a note if not all."""
    most = max((_brightest(splits[split], index) for split, index in deep.items()), default=0)
    bits = max(8, most.bit_length()) if most else 16
    if bits == 16:
        return bits, []
    return bits, [
        f"Images of 16 bits use 0 to {most:,} of 65,535: the lowest {bits} bits are brought to "
        "0 … 255, in all splits and in predictions alike."
    ]


def _brightest(entries: Entries, index: Sequence[int]) -> int:
    """The largest value of the images at `index`."""
    read = entries.read
    assert read is not None

    def value(k: int) -> int:
        try:
            return brightest(read(index[k]))
        except (Broken, OSError):
            return 0

    return max(on_all_cores(value, len(index)), default=0)
