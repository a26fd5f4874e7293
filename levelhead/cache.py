"""Where things that can be made again are kept."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """`$LEVELHEAD_CACHE`, or the user's cache folder; not created here."""
    import platformdirs

    return Path(os.environ.get("LEVELHEAD_CACHE") or platformdirs.user_cache_dir("levelhead"))
