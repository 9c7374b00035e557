"""specdec: speculative decoding that can be invented, proved, measured and compared in one place."""

from specdec.drafters.base import Drafter, DraftRequest, Needs, Outcome, TargetHandle
from specdec.engine import Engine, EngineConfig, EngineLoop
from specdec.engine.outputs import BatchError, Generation, StreamEvent
from specdec.errors import (
    ConfigError,
    InvalidRequestError,
    NumericalError,
    OutOfBlocksError,
    SpecdecError,
    UnsupportedModelError,
)
from specdec.generator import SpeculativeGenerator
from specdec.prompts import Chat
from specdec.sampling import SamplingParams
from specdec.verify import DraftTree, Rule, StepKey, Verdict

__version__ = "0.1.0"

__all__ = [
    "BatchError",
    "Chat",
    "ConfigError",
    "DraftRequest",
    "DraftTree",
    "Drafter",
    "Engine",
    "EngineConfig",
    "EngineLoop",
    "Generation",
    "InvalidRequestError",
    "Needs",
    "NumericalError",
    "OutOfBlocksError",
    "Outcome",
    "Rule",
    "SamplingParams",
    "SpecdecError",
    "SpeculativeGenerator",
    "StepKey",
    "StreamEvent",
    "TargetHandle",
    "UnsupportedModelError",
    "Verdict",
]
