"""Which head drafts for a target: one from a folder, or one that ships with the package."""

from __future__ import annotations

from pathlib import Path

from specdec.errors import ConfigError, UnsupportedModelError
from specdec.heads.base import Head
from specdec.heads.files import CONFIG, load_head
from specdec.models.base import CausalLM

SHIPPED = Path(__file__).parent / "shipped"
"""One folder for each head."""


def head_for(target: CausalLM, source: str | Path | None, shipped: Path = SHIPPED) -> Head:
    """A head that fits a target.

    Args:
        target: who is drafted for.
        source: the head's folder; None takes the first that ships and fits.
        shipped: where those are.

    Raises:
        UnsupportedModelError: if the folder's files cannot be used for this target.
        ConfigError: if no head that ships can.
    """
    if source is not None:
        return load_head(source, target)
    reasons: list[str] = []
    for folder in sorted(path.parent for path in shipped.glob(f"*/{CONFIG}")):
        try:
            return load_head(folder, target)
        except UnsupportedModelError as error:
            reasons.append(str(error))
    raise ConfigError(
        f"No head that ships is for {target.name}. Train one with `specdec train` and give its folder "
        f"(drafter.head=FOLDER), or use another drafter. {' '.join(reasons)}".rstrip()
    )
