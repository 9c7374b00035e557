"""The settings of a study, typed: Hydra refuses a key that is not here, and a value of another type.

They end here. `specdec.study.plan` turns them into the objects that the rest of the code takes.
"""

from __future__ import annotations

from dataclasses import dataclass, field, make_dataclass
from inspect import signature
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

from specdec.engine import EngineConfig
from specdec.engine.goals import Goals
from specdec.models.loading import load
from specdec.sampling import SamplingParams
from specdec.serve.settings import Settings as ServerSettings
from specdec.study.afterwards import AnswersConfig, PlotConfig, ReplayConfig, ReportConfig, TableConfig
from specdec.study.choices import REGISTRIES, register_choices
from specdec.study.schema import schema
from specdec.training.batches import Batching
from specdec.training.corpus import Answers
from specdec.training.losses import LossConfig
from specdec.training.prompts import Mix
from specdec.training.schedule import LoopConfig, Schedule
from specdec.training.settings import HeadOptions, Settings
from specdec.typed import TypedName, TypedPath, TypedText

NOT_SETTINGS: tuple[str, ...] = ("constraint", "grammar", "n", "prediction", "rule")
"""Fields of `SamplingParams` that are each prompt's own, or that a config has in another form."""
PRECISION = ("dtype", "kv_dtype", "smoothing", "calibration")
"""Parameters of `load` that are the group `precision`; the group `device` has its device, `target` all others."""

TargetConfig = schema("TargetConfig", load, without=(*PRECISION, "device"))
PrecisionConfig = schema("PrecisionConfig", load, without=set(signature(load).parameters) - {*PRECISION})
_Sampling = schema("SamplingFields", SamplingParams, without=NOT_SETTINGS, seed=0)  # a study can be repeated
_GRAMMAR = ("grammar", TypedText | None, field(default=None))
SamplingConfig = make_dataclass("SamplingConfig", [_GRAMMAR], bases=(_Sampling,))
EngineSettings = schema("EngineSettings", EngineConfig, without=("goals",))
GOALS = ("goals", Any, field(default_factory=schema("GoalSettings", Goals)))


@dataclass
class DeviceConfig:
    """On what.

    Args:
        device: where torch puts the weights: cpu, cuda, cuda:1.
        threads: CPU threads; None leaves torch's choice.
    """

    device: str = "cpu"
    threads: int | None = None


@dataclass
class TraceConfig:
    """What is recorded of the first prompts, after they were timed; configs/study.yaml describes it."""

    prompts: int = 0
    top_k: int | None = 64
    every_position: bool = False
    save: bool = False


@dataclass
class Parts:
    """What every command that decodes is made of."""

    target: Any = field(default_factory=TargetConfig)
    precision: Any = field(default_factory=PrecisionConfig)
    device: DeviceConfig = field(default_factory=DeviceConfig)
    sampling: Any = field(default_factory=SamplingConfig)
    engine: Any = field(default_factory=EngineSettings)
    drafter: dict[str, Any] = field(default_factory=dict)
    beside: list[str] = field(default_factory=list)
    rule: dict[str, Any] = field(default_factory=dict)
    policy: dict[str, Any] = field(default_factory=dict)


@dataclass
class Decoding(Parts):
    """With prompts of its own."""

    data: dict[str, Any] = field(default_factory=dict)
    chat: bool = True
    template_kwargs: dict[str, Any] = field(default_factory=dict)


@dataclass
class GenerateConfig(Decoding):
    """`specdec generate`."""

    prompt: TypedText | None = None
    svg: TypedPath | None = None


@dataclass
class StudyConfig(Decoding):
    """`specdec study`."""

    tracking: dict[str, Any] = field(default_factory=dict)
    study: TypedName = MISSING
    note: TypedName = ""
    runs: TypedPath = "runs"
    batch: int = 1
    baseline: bool = True
    certified: bool = True
    profile: bool = True
    trace: TraceConfig = field(default_factory=TraceConfig)
    side_by_side: bool = False
    rerun: bool = False
    report: bool = True
    jobs: int = 1
    command: TypedName = ""
    ledger: TypedName = ""


@dataclass
class ProfileConfig:
    """`specdec profile`."""

    target: Any = field(default_factory=TargetConfig)
    device: DeviceConfig = field(default_factory=DeviceConfig)
    precisions: list[str] = field(default_factory=list)
    gamma: int = 5
    json: TypedPath | None = None


@dataclass
class LayersSearchConfig(Decoding):
    """`specdec layers search`."""

    trials: int = 300
    seed: int = 0
    longest: int = 8
    yaml: TypedPath | None = None


@dataclass
class CertifyConfig:
    """`specdec certify`."""

    rules: list[str] | None = None
    quick: bool = False
    json: TypedPath | None = None
    mutants: str | None = None
    markdown: TypedPath | None = None
    command: TypedName = ""


@dataclass
class StoreBuildConfig(Decoding):
    """`specdec store build`."""

    texts: TypedPath | None = None
    output: TypedPath = MISSING
    answers: bool = False
    order: bool = True


TRAINING = {
    "head": HeadOptions, "mix": Mix, "answers": Answers, "batching": Batching, "loss": LossConfig,
    "schedule": Schedule, "loop": LoopConfig,
}  # fmt: skip
"""Parts of the settings of `specdec train`; there is one seed for all."""


def _train_config() -> type[Any]:
    """`specdec train`: as `specdec.training.settings.Settings`, with its parts."""
    own = schema("TrainConfig", Settings, without=(*TRAINING, "device", "target"), output=MISSING)
    parts: list[Any] = [
        (name, Any, field(default_factory=schema(f"{kind.__name__}Settings", kind, without=("seed",))))
        for name, kind in TRAINING.items()
    ]
    groups = {"target": TargetConfig, "device": DeviceConfig}
    parts += [(name, Any, field(default_factory=kind)) for name, kind in groups.items()]
    parts.append(("tracking", dict[str, Any], field(default_factory=dict)))
    return make_dataclass("TrainConfig", parts, bases=(own,))


@dataclass
class StoreShowConfig:
    """`specdec store show`."""

    file: TypedPath = MISSING


@dataclass
class HeadInspectConfig:
    """`specdec head inspect`."""

    folder: TypedPath = MISSING
    target: Any = field(default_factory=TargetConfig)
    numbering: str | None = None
    pickled: TypedPath | None = None


PROGRAMS = {
    "generate": GenerateConfig,
    "study": StudyConfig,
    "report": ReportConfig,
    "plot": PlotConfig,
    "table": TableConfig,
    "answers": AnswersConfig,
    "replay": ReplayConfig,
    "profile": ProfileConfig,
    "certify": CertifyConfig,
    "store_build": StoreBuildConfig,
    "store_show": StoreShowConfig,
    "head_inspect": HeadInspectConfig,
    "train": _train_config(),
    "layers_search": LayersSearchConfig,
    "serve": make_dataclass("ServeConfig", [GOALS], bases=(schema("ServeSettings", ServerSettings), Parts)),
}
"""Command → its settings."""


def register() -> None:
    """Makes the schemas and the registries' names known to Hydra; configs/*.yaml name the schemas first."""
    store: Any = ConfigStore.instance()
    # Hydra 1.3 copies the store, and so all schemas, for every group that it lists. It changes none of the copies.
    type(store).__deepcopy__ = lambda self, memo: self
    for name, kind in PROGRAMS.items():
        node = OmegaConf.structured(kind)
        for group in REGISTRIES:
            if group in node:
                OmegaConf.set_struct(node[group], False)  # which options there are is known by the class alone
        store.store(name=f"{name}_schema", node=node)
    OmegaConf.register_new_resolver("as_typed", lambda: str(MISSING), replace=True)  # the text that would be missing
    register_choices()
