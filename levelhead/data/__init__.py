"""Images and labels: `scan` lists what is on disk, `load` decodes it."""

from levelhead.data.entries import Dataset, Entries, Examples, Listing
from levelhead.data.layouts import LAYOUTS, Layout, scan
from levelhead.data.load import load, load_images
from levelhead.data.memory import from_arrays

__all__ = [
    "LAYOUTS",
    "Dataset",
    "Entries",
    "Examples",
    "Layout",
    "Listing",
    "from_arrays",
    "load",
    "load_images",
    "scan",
]
