"""`digits`: the 1,797 handwritten digits of scikit-learn, 8 x 8 grey, which need no download."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from levelhead.data.entries import Entries, Listing
from levelhead.data.listing import finish

WORDS = "digits: the word itself (1,797 images of 8 x 8 pixels, embedded)"


def here(path: Path) -> bool:
    """Whether the word `digits` was given (a folder of that name is ./digits)."""
    return path == Path("digits")


def read(path: Path, group_column: str = "", label_column: str = "") -> Listing:
    """The embedded digits, 0..16 scaled to 0..255; no test split of their own."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    ids = [f"digits/{i}" for i in range(len(images))]
    return finish(
        "digits", "digits", {"train": Entries(tuple(ids), bunch.target.tolist(), images=images)}
    )
