"""Who guesses: one file a method."""

from specdec.drafters.base import Drafter, DraftRequest, TargetHandle

__all__ = ["DraftRequest", "Drafter", "TargetHandle"]
