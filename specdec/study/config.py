"""The settings of a study, typed: Hydra refuses a key that is not here, and a value of another type.

They end here. `specdec.study.plan` turns them into the objects that the rest of the code takes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from specdec.engine import EngineConfig
from specdec.sampling import SamplingParams


@dataclass
class TargetConfig:
    """Which model (see `specdec.models.loading.load`)."""

    path: str | None = None
    backend: str = "auto"
    revision: str | None = None
    allow_pickle: bool = False
    trust_remote_code: bool = False


@dataclass
class PrecisionConfig:
    """In which numbers."""

    dtype: str = "float32"
    kv_dtype: str | None = None
    smoothing: float | None = 0.5
    calibration: str | None = None


@dataclass
class DeviceConfig:
    """On what."""

    device: str = "cpu"
    threads: int | None = None


@dataclass
class SamplingConfig:
    """How tokens are chosen (see `specdec.sampling.SamplingParams`)."""

    max_tokens: int = SamplingParams.max_tokens
    temperature: float = SamplingParams.temperature
    top_k: int = SamplingParams.top_k
    top_p: float = SamplingParams.top_p
    min_p: float = SamplingParams.min_p
    repetition_penalty: float = SamplingParams.repetition_penalty
    presence_penalty: float = SamplingParams.presence_penalty
    frequency_penalty: float = SamplingParams.frequency_penalty
    seed: int | None = 0  # unlike there: a study can be repeated
    stop: list[str] = field(default_factory=list)
    bad_words: list[str] = field(default_factory=list)
    ignore_eos: bool = SamplingParams.ignore_eos


@dataclass
class EngineSettings:
    """Sizes (see `specdec.engine.EngineConfig`)."""

    block_size: int = EngineConfig.block_size
    num_blocks: int | None = EngineConfig.num_blocks
    max_batch_tokens: int = EngineConfig.max_batch_tokens
    max_num_seqs: int = EngineConfig.max_num_seqs


@dataclass
class TraceConfig:
    """What is recorded of the first prompts, after they were timed."""

    prompts: int = 0
    top_k: int | None = 64
    save: bool = False


@dataclass
class Decoding:
    """What every job that decodes needs."""

    target: TargetConfig = field(default_factory=TargetConfig)
    precision: PrecisionConfig = field(default_factory=PrecisionConfig)
    device: DeviceConfig = field(default_factory=DeviceConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    engine: EngineSettings = field(default_factory=EngineSettings)
    drafter: dict[str, Any] = field(default_factory=dict)
    rule: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    chat: bool = True


@dataclass
class GenerateConfig(Decoding):
    """`specdec generate`."""

    prompt: str | None = None
    svg: str | None = None


@dataclass
class StudyConfig(Decoding):
    """`specdec study`."""

    tracking: dict[str, Any] = field(default_factory=dict)
    study: str = MISSING
    runs: str = "runs"
    batch: int = 1
    baseline: bool = True
    certified: bool = True
    profile: bool = True
    trace: TraceConfig = field(default_factory=TraceConfig)
    side_by_side: bool = False
    rerun: bool = False
    report: bool = True
    jobs: int = 1


def register() -> None:
    """Makes the schemas known to Hydra; configs/*.yaml name them first in their defaults."""
    store = ConfigStore.instance()
    store.store(name="generate_schema", node=GenerateConfig)
    store.store(name="study_schema", node=StudyConfig)
