"""Record once what target and drafter said, then replay rules on it without either model (docs/traces.md)."""

from specdec.analysis.traces.recording import record
from specdec.analysis.traces.storage import load_trace, save_trace
from specdec.analysis.traces.trace import Trace, TraceInfo, TraceStep

__all__ = ["Trace", "TraceInfo", "TraceStep", "load_trace", "record", "save_trace"]
