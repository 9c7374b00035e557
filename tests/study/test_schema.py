"""Settings and what takes them have the same names, defaults and types."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from inspect import signature
from typing import Any, Literal

import pytest
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, ValidationError

from specdec.engine import EngineConfig
from specdec.models.loading import load
from specdec.sampling import SamplingParams
from specdec.study.config import NOT_SETTINGS, Decoding
from specdec.study.plan import sampling_params, values_of
from specdec.study.schema import schema


@dataclass(frozen=True)
class Everything:
    """A field of each type that a setting can have."""

    count: int = 3
    name: str | None = None
    kind: Literal["a", "b"] = "a"
    words: Sequence[str] = ("x",)
    mixed: Sequence[str | Sequence[int]] = ()
    numbers: tuple[float, ...] = (1.5,)
    bias: Mapping[int, float] | None = None
    table: dict[str, int] = field(default_factory=dict)


def test_a_schema_has_the_names_defaults_and_types_of_its_source() -> None:
    config = OmegaConf.structured(schema("Settings", Everything, table={"k": 1}, count=4))
    assert OmegaConf.to_container(config) == {
        "count": 4, "name": None, "kind": "a", "words": ["x"], "mixed": [], "numbers": [1.5], "bias": {},
        "table": {"k": 1},
    }  # fmt: skip
    given = {"bias": {7: 2}, "mixed": ["no", [1, 2]], "words": ["y"], "name": "n"}
    merged = OmegaConf.to_container(OmegaConf.merge(config, given))
    assert merged == {**OmegaConf.to_container(config), **given}  # type: ignore[dict-item]
    for wrong in ({"count": "many"}, {"words": 3}, {"bias": {7: "much"}}, {"count": None}):
        with pytest.raises(ValidationError):
            OmegaConf.merge(config, wrong)
    with pytest.raises((ConfigKeyError, ConfigAttributeError)):
        OmegaConf.merge(config, {"cuont": 1})


def test_two_configs_share_no_list() -> None:
    kind = schema("Settings", Everything)
    assert kind().words is not kind().words


def test_what_no_config_file_can_hold_is_refused_by_name() -> None:
    def plays(tune: Callable[[], None], loud: bool = False) -> None: ...

    with pytest.raises(TypeError, match=r"plays\.tune: a setting cannot be"):
        schema("Settings", plays)
    assert [one.name for one in fields(schema("Settings", plays, without=["tune"]))] == ["loud"]


def test_every_field_of_the_sampling_parameters_is_a_setting_or_listed_as_none() -> None:
    settings = values_of(OmegaConf.structured(Decoding)["sampling"])
    assert set(settings) - {"grammar"} == {one.name for one in fields(SamplingParams)} - set(NOT_SETTINGS)
    assert set(NOT_SETTINGS) <= {one.name for one in fields(SamplingParams)}
    assert settings["logit_bias"] == {}  # stands for None
    params = sampling_params({"sampling": settings | {"logit_bias": None}})
    assert params == SamplingParams(seed=0)  # a study can be repeated


def test_what_nobody_set_is_null_and_leaves_the_word_to_the_model(composed: Callable[..., DictConfig]) -> None:
    """The chosen group says how warm and how long; the model says the rest."""
    model = {"top_k": 7, "min_p": 0.1, "temperature": 0.5, "max_tokens": 9, "bad_words": ((3,),)}
    params = sampling_params(values_of(composed("sampling.min_p=0.2"))).over(model)
    assert (params.top_k, params.min_p, params.temperature, params.max_tokens) == (7, 0.2, 0.0, 12)
    assert params.bad_words == ((3,),)


def test_every_size_of_the_engine_is_a_setting() -> None:
    assert EngineConfig(**values_of(OmegaConf.structured(Decoding)["engine"])) == EngineConfig()


def test_every_parameter_of_load_is_a_setting_of_one_group() -> None:
    config: DictConfig = OmegaConf.structured(Decoding)
    options: dict[str, Any] = {**values_of(config.target), **values_of(config.precision)}
    defaults = {name: parameter.default for name, parameter in signature(load).parameters.items()}
    assert options | {"device": config.device.device} == defaults
    assert not set(config.target) & set(config.precision)


def test_bias_and_words_reach_the_sampling_parameters(composed: Callable[..., DictConfig]) -> None:
    config = composed("+sampling.logit_bias={5:1.5,9:-2}", "sampling.bad_words=[no,[1,2]]", "sampling.logprobs=2")
    params = sampling_params(values_of(config))
    assert params.logit_bias == {5: 1.5, 9: -2.0}
    assert params.bad_words == ("no", (1, 2))
    assert params.logprobs == 2
