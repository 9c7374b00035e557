"""Choices of the groups `drafter`, `rule` and `policy`: the names in the registries, those of installed packages among
them, and the dotted path of any class (`drafter=my_package.my_module.Mine`)."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence

from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from specdec.errors import ConfigError
from specdec.registry import DRAFTERS, POLICIES, RULES, Registry, is_dotted

REGISTRIES = {"drafter": DRAFTERS, "rule": RULES, "policy": POLICIES}
OPTIONS = tuple(f"{group}." for group in REGISTRIES)
WITH_FILES = ("drafter",)
"""Groups whose own choices have files in configs/, with options and comments."""
OTHERS = {
    "rule": {
        "auto": "greedy at temperature 0; else gumbel for deterministic drafters, block for chains, traversal for trees"
    }
}
"""Choices that are no class of a registry."""
CUSTOM = "custom"
"""The choice whose class is given by `_target_`."""


def register_choices() -> None:
    """Stores a node `{_target_: class}` for each name that has no file, and resolvers: `choices` describes them in
    --help, `groups` lists the choices of every group; `runnable` and `left_out` are those two of `runnable`."""
    store = ConfigStore.instance()
    for group, registry in REGISTRIES.items():
        for name, target in registry.targets(builtin=group not in WITH_FILES).items():
            store.store(group=group, name=name, node={"_target_": target})
    OmegaConf.register_new_resolver("runnable", lambda: ",".join(runnable()[0]), replace=True)
    OmegaConf.register_new_resolver("left_out", lambda: " ".join(runnable()[1]), replace=True)
    OmegaConf.register_new_resolver("groups", groups, replace=True)
    OmegaConf.register_new_resolver("choices", descriptions, replace=True)


def register_classes(words: Iterable[str]) -> None:
    """Makes every dotted path among the values of `drafter=`, `rule=` and `policy=` a choice of that group.

    Args:
        words: settings `key=value`; a sweep names several, with commas.
    """
    store = ConfigStore.instance()
    for word in words:
        group, _, values = word.partition("=")
        for name in _names(values) if group in REGISTRIES else ():
            if is_dotted(name):
                store.store(group=group, name=name, node={"_target_": name.replace(":", ".")})


def simplified(words: Sequence[str]) -> list[str]:
    """`drafter=ngram,custom drafter._target_=my.Mine +drafter.option=3` means `drafter=ngram,my.Mine drafter.option=3`:
    the class is one choice's alone, and an option needs no plus.

    Args:
        words: settings `key=value`.
    """
    result = [word.lstrip("+") if word.lstrip("+").startswith(OPTIONS) else word for word in words]
    for group in REGISTRIES:
        chosen, named = f"{group}=", f"{group}._target_="
        targets = [word.removeprefix(named) for word in result if word.startswith(named)]
        choices = [word for word in result if word.startswith(chosen) and CUSTOM in _names(word.removeprefix(chosen))]
        if len(targets) == 1 and choices:
            result = [word for word in result if not word.startswith(named)]
            for word in choices:
                names = [targets[0] if name == CUSTOM else name for name in _names(word.removeprefix(chosen))]
                result[result.index(word)] = chosen + ",".join(names)
    return result


def _names(values: str) -> list[str]:
    return [name.strip() for name in values.split(",")]


def runnable() -> tuple[list[str], list[str]]:
    """Names of the drafters that can be made without an option, "none" first; and of each other one, why it cannot."""
    names, reasons = [], []
    for name in sorted(DRAFTERS.names(), key=lambda name: (name != "none", name)):
        try:
            DRAFTERS.create(name)
            names.append(name)
        except ConfigError as error:
            reasons.append(f"Left out: {name}. {error}")
    return names, reasons


def groups() -> str:
    """A line for each group of the running program: the choice that holds, and all. Files with a `_` are parts of
    others."""
    loader = GlobalHydra.instance().config_loader()
    own = {group: name for group, name in HydraConfig.get().runtime.choices.items() if not group.startswith("hydra/")}
    options = {group: [name for name in loader.get_group_options(group) if not name.startswith("_")] for group in own}
    chosen = {group: f"{group}={own[group] or 'null'}" for group in sorted(own)}
    lines = [f"{choice:<22} of {', '.join(options[group])}" for group, choice in chosen.items()]
    return "\n".join(["== Groups (group=choice) ==", *lines, ""]) if lines else ""


def descriptions() -> str:
    """A line for each choice: its class's first sentence."""
    blocks = []
    for group, registry in REGISTRIES.items():
        lines = {**OTHERS.get(group, {}), **{name: _first_sentence(registry, name) for name in registry.names()}}
        width = max(map(len, lines))
        blocks += [f"{group}:", *(f"  {name:<{width}}  {line}" for name, line in lines.items()), ""]
    return "\n".join(blocks).replace("$", "$$")  # Hydra fills it into a template


def _first_sentence(registry: Registry[object], name: str) -> str:
    try:
        paragraph = (inspect.getdoc(registry.get(name)) or "").partition("\n\n")[0]
    except ConfigError as error:
        return str(error)
    return " ".join(paragraph.split())
