"""Who runs the step: requests in, tokens out."""

from specdec.engine.config import EngineConfig
from specdec.engine.engine import Engine

__all__ = ["Engine", "EngineConfig"]
