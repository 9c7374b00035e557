"""specdec: speculative decoding that can be invented, proved, measured and compared in one place."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from specdec.drafters.base import Drafter, DraftRequest, Needs, Outcome, TargetHandle
    from specdec.engine import Engine, EngineConfig, EngineLoop
    from specdec.engine.goals import Goals
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
    from specdec.programs import Call, Session, gather
    from specdec.prompts import Chat
    from specdec.sampling import Grammar, SamplingParams
    from specdec.verify import DraftTree, Rule, StepKey, Verdict

__version__ = "0.1.0"

__all__ = [
    "BatchError",
    "Call",
    "Chat",
    "ConfigError",
    "DraftRequest",
    "DraftTree",
    "Drafter",
    "Engine",
    "EngineConfig",
    "EngineLoop",
    "Generation",
    "Goals",
    "Grammar",
    "InvalidRequestError",
    "Needs",
    "NumericalError",
    "OutOfBlocksError",
    "Outcome",
    "Rule",
    "SamplingParams",
    "Session",
    "SpecdecError",
    "SpeculativeGenerator",
    "StepKey",
    "StreamEvent",
    "TargetHandle",
    "UnsupportedModelError",
    "Verdict",
    "gather",
]
_MODULES = {
    "specdec.drafters.base": ("Drafter", "DraftRequest", "Needs", "Outcome", "TargetHandle"),
    "specdec.engine": ("Engine", "EngineConfig", "EngineLoop"),
    "specdec.engine.goals": ("Goals",),
    "specdec.engine.outputs": ("BatchError", "Generation", "StreamEvent"),
    "specdec.errors": ("ConfigError", "InvalidRequestError", "NumericalError", "OutOfBlocksError", "SpecdecError",
                       "UnsupportedModelError"),
    "specdec.generator": ("SpeculativeGenerator",),
    "specdec.programs": ("Call", "Session", "gather"),
    "specdec.prompts": ("Chat",),
    "specdec.sampling": ("Grammar", "SamplingParams"),
    "specdec.verify": ("DraftTree", "Rule", "StepKey", "Verdict"),
}  # fmt: skip
_PLACES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    """Loads what is asked for: torch and transformers take seconds, and a wrong word in a shell needs neither."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return globals().setdefault(name, getattr(import_module(_PLACES[name]), name))


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
