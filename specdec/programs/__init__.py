"""Programs over the engine: sessions that append, generate, select, score and fork, and many of them in one batch."""

from specdec.programs.calls import Call, Host, Program, gather
from specdec.programs.scoring import Score, Selection
from specdec.programs.session import Session

__all__ = ["Call", "Host", "Program", "Score", "Selection", "Session", "gather"]
