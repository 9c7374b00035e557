"""Where things are kept that were expensive to make: converted weights, compiled kernels, measured costs."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """$XDG_CACHE_HOME/specdec, or ~/.cache/specdec. May be deleted at any time."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "specdec"
