"""Where figures are sent while a job runs: nowhere, Weights & Biases, or trackio (docs/tracking.md)."""

from specdec.tracking.base import NoTracker, SafeTracker, Tracker

__all__ = ["NoTracker", "SafeTracker", "Tracker"]
