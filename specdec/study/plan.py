"""Settings → the objects of one job, with every refusal that needs no model."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import cycle
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf

from specdec.drafters.base import Drafter
from specdec.engine import EngineConfig
from specdec.errors import ConfigError
from specdec.generator import SpeculativeGenerator
from specdec.models.loading import LoadedModel, check_options, load
from specdec.places import missing
from specdec.policy.base import Policy
from specdec.prompts import Chat, PromptRecord
from specdec.prompts.entry import Prompt
from specdec.prompts.subsets import fingerprint
from specdec.proof.certificates import certificate_of
from specdec.sampling import Grammar, SamplingParams
from specdec.study.axes import axes
from specdec.study.drafters import beside, check_vocabularies
from specdec.verify.base import Rule
from specdec.verify.select import AUTO, select_rule

NOT_IDENTITY = (
    "tracking", "study", "note", "runs", "side_by_side", "rerun", "report", "profile", "jobs", "command", "ledger",
)  # fmt: skip
"""Settings that do not change what a job finds out."""
PARTS: dict[str, type[Drafter | Rule | Policy]] = {"drafter": Drafter, "rule": Rule, "policy": Policy}
"""Groups whose choices are classes of one kind."""
NO_PROMPTS: dict[str, Any] = {"data": {}, "chat": True, "template_kwargs": {}}
"""Settings of a command whose prompts come later."""
HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*){0,1}(/[\w./-]+\.gguf)?")
"""`org/name`, `name`, or one of these with a file in it."""


@dataclass(frozen=True)
class Plan:
    """What one job decodes, with what.

    Args:
        load_options: for `specdec.models.loading.load`.
        threads: CPU threads of torch, or None for torch's choice.
        drafters: not yet bound to a target; the policy chooses among them.
        rule: a rule, or "auto".
        judge: the rule that will judge its requests.
        params: of the first prompt; the others have seeds that count on.
        policy: how much to draft.
        engine: sizes.
        source: where prompts come from; None if they come later.
        chat: whether they go through the chat template, if the tokenizer has one.
        template_kwargs: variables of that template.
        axes: in what the job may differ from others of its study.
    """

    load_options: dict[str, Any]
    threads: int | None
    drafters: tuple[Drafter, ...]
    rule: str | Rule
    judge: Rule
    params: SamplingParams
    policy: Policy
    engine: EngineConfig
    source: Any
    chat: bool
    template_kwargs: dict[str, Any]
    axes: dict[str, Any]

    def params_of(self, indices: Sequence[int]) -> list[SamplingParams]:
        """Of these prompts: every one has a seed of its own, wherever it is decoded."""
        seed = self.params.seed
        return [self.params if seed is None else replace(self.params, seed=seed + index) for index in indices]

    def use_threads(self) -> None:
        """Gives torch, and with it the kernels, as many threads as were asked for."""
        if self.threads is not None:
            torch.set_num_threads(self.threads)

    def generator(self) -> SpeculativeGenerator:
        """Loads the target, unless the plan before had the same one, and sets everything up.

        Raises:
            SpecdecError: if the parts do not fit the model.
        """
        loaded = _loaded(**self.load_options)
        return SpeculativeGenerator(loaded, self.drafters, self.rule, config=self.engine, policy=self.policy)

    def prompt(self, said: Sequence[str], generator: SpeculativeGenerator) -> Prompt:
        """What the target reads: a chat, if the tokenizer has a chat template and `chat` is true; else a text.

        Args:
            said: what the user and the model have said in turns; the user begins and ends.
            generator: has the tokenizer.
        """
        templated = getattr(generator.tokenizer, "chat_template", None) or self.template_kwargs
        if not (self.chat and templated):
            return "\n\n".join(said)
        messages = [{"role": role, "content": text} for role, text in zip(cycle(("user", "assistant")), said)]
        return Chat(messages, template_kwargs=self.template_kwargs)


def plan(config: DictConfig) -> Plan:
    """Checks the settings and makes the parts.

    Args:
        config: composed; its fields are those of `specdec.study.config.Decoding`, or `Parts` where prompts come later.

    Raises:
        ConfigError: for a value that no part takes, or parts that do not fit together.
    """
    values = {**NO_PROMPTS, **values_of(config)}
    params = sampling_params(values)
    drafter, rule, policy = (_part(config, group) for group in PARTS)
    drafters = (drafter, *beside(drafter, values["beside"]))
    device = values["device"]
    load_options = {**values["target"], **values["precision"], "device": device["device"]}
    check_options(load_options["dtype"], load_options["kv_dtype"], load_options["backend"], device["device"])
    _check_chat(values)
    judge = select_rule(
        rule,
        params,
        all(one.deterministic for one in drafters),
        any(one.trees for one in drafters),
        any(one.shares for one in drafters),
        all(one.deterministic or one.ranks for one in drafters),
    )
    check_model_path("target.path", values["target"]["path"])
    check_model_path("drafter.draft", values["drafter"].get("draft"))
    check_vocabularies(values["target"]["path"], drafters)
    return Plan(
        load_options=load_options,
        threads=device["threads"],
        drafters=drafters,
        rule=rule,
        judge=judge,
        params=params,
        policy=policy,
        engine=EngineConfig(**values["engine"]),
        source=instantiate(config.data, "data") if values["data"] else None,
        chat=values["chat"],
        template_kwargs=values["template_kwargs"],
        axes=axes(values, drafters, rule, policy, params.temperature),
    )


def sampling_params(values: Mapping[str, Any]) -> SamplingParams:
    """Of the settings `sampling`; those that are null were not set."""
    given = {name: value for name, value in values["sampling"].items() if value is not None}
    if "grammar" in given:
        given["grammar"] = Grammar.written(given["grammar"])
    return SamplingParams(**given)


def check_model_path(setting: str, path: Any) -> None:
    """Raises ConfigError for a path at which there is nothing, unless it may be a hub id."""
    if isinstance(path, str) and not HUB_ID.fullmatch(path) and not Path(path).exists():
        raise ConfigError(
            f"{setting}={path!r} does not exist. {missing(path)} Give a folder, a GGUF file or a hub id (org/name)."
        )


def check_source(source: Any) -> None:
    """Raises ConfigError if the file that prompts come from cannot be read."""
    check = getattr(source, "check", None)
    if check is not None:
        check()


def check_certified(job: Plan, certified: bool) -> None:
    """Raises ConfigError if a certificate is asked for that cannot be had. A rule that was not examined yet is examined
    now, which takes seconds; `lossless` on its class is what it claims."""
    if certified and not job.judge.lossless:
        raise ConfigError(
            f"rule={job.judge.name!r} is lossy, and certified=true asks for the target's own distribution. "
            "Set certified=false to study it all the same, or take a lossless rule."
        )
    found = certificate_of(job.judge) if certified else None
    if found is not None and not found["passed"]:
        raise ConfigError(
            f"rule={job.judge.name!r} is not lossless, or its code is not what it states. {found['witness']} Correct "
            "it, or set certified=false to study it all the same."
        )


def values_of(config: DictConfig) -> dict[str, Any]:
    """As plain Python values.

    Raises:
        ConfigError: if a value that must be given is missing.
    """
    if missing := sorted(OmegaConf.missing_keys(config)):
        raise ConfigError(f"Nothing was given for {', '.join(missing)}. Add {missing[0]}=… to the command.")
    values: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    return values


def instantiate(config: DictConfig, what: str) -> Any:
    """Makes the object that a group's choice names by `_target_`.

    Raises:
        ConfigError: if it cannot be made; the part's own words are kept.
    """
    try:
        return hydra.utils.instantiate(OmegaConf.create(_twice_escaped(values_of(config))))
    except InstantiationException as error:
        cause = error.__cause__ or error
        raise ConfigError(f"{what}: {cause}") from error


def _part(config: DictConfig, group: str) -> Any:
    """The object of a group, if it is one of its kind."""
    made = instantiate(config[group], group)
    if not isinstance(made, PARTS[group]) and made != AUTO:
        raise ConfigError(
            f"{group}={config[group]._target_!r} is no {PARTS[group].__name__}. Give the path of a subclass of "
            f"specdec.{PARTS[group].__name__}."
        )
    return made


def _twice_escaped(value: Any) -> Any:
    """For `instantiate`, which resolves what it is given and then reads the outcome as if it were not resolved."""
    if isinstance(value, dict):
        return {key: _twice_escaped(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_twice_escaped(each) for each in value]
    return escaped(escaped(value)) if isinstance(value, str) else value


def escaped(text: str) -> str:
    """A text in which OmegaConf finds no interpolation: it reads it as it was given."""
    return re.sub(r"(\\*)\$\{", lambda match: match[1] * 2 + r"\${", text)


def identity(config: DictConfig, records: Sequence[PromptRecord]) -> str:
    """A short name for everything that decides what a job finds out: its settings and its prompts."""
    values = {name: value for name, value in values_of(config).items() if name not in NOT_IDENTITY}
    record = json.dumps([values, fingerprint(records)], sort_keys=True)
    return hashlib.sha256(record.encode()).hexdigest()[:8]


@lru_cache(maxsize=1)
def _loaded(**options: Any) -> LoadedModel:
    """Jobs of a sweep that run in one process mostly share their target."""
    return load(**options)


def _check_chat(values: dict[str, Any]) -> None:
    """Raises ConfigError for variables of a chat template that nothing goes through."""
    if values["template_kwargs"] and not values["chat"]:
        name = next(iter(values["template_kwargs"]))
        raise ConfigError(f"template_kwargs.{name} does nothing with chat=false. Leave it out, or set chat=true.")
