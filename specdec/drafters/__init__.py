"""Who guesses: one file a method."""

from specdec.drafters.base import Drafter, DraftRequest, Needs, Outcome, TargetHandle

__all__ = ["DraftRequest", "Drafter", "Needs", "Outcome", "TargetHandle"]
