"""For those who write methods: does a drafter keep to its contract? `check_drafter` finds out."""

from specdec.testing.conformance import check_drafter
from specdec.testing.drafters import OracleDrafter, PoisonDrafter, RecordingDrafter

__all__ = ["OracleDrafter", "PoisonDrafter", "RecordingDrafter", "check_drafter"]
