"""Who runs the step: requests in, tokens out."""

from specdec.engine.config import EngineConfig
from specdec.engine.engine import Engine
from specdec.engine.loop import EngineLoop

__all__ = ["Engine", "EngineConfig", "EngineLoop"]
