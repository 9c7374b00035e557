"""Plain decoding: the baseline is the same engine with nothing to verify."""

from __future__ import annotations

from collections.abc import Sequence

from specdec.drafters.base import Drafter, DraftRequest
from specdec.verify.tree import DraftTree, TreeShape


class NoDrafter(Drafter):
    """Proposes nothing."""

    name = "none"

    def __init__(self) -> None:
        super().__init__(shape=TreeShape())

    def propose(self, requests: Sequence[DraftRequest]) -> list[DraftTree]:
        """Empty trees."""
        return [DraftTree() for _ in requests]
