"""A drafter, a rule or a policy of another package is a choice by its name alone."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig

from specdec import registry
from specdec.commands.application import config_dir
from specdec.drafters.ngram import NgramDrafter
from specdec.errors import ConfigError
from specdec.policy.always import AlwaysPolicy
from specdec.study import choices, preflight, sweep
from specdec.study.choices import REGISTRIES, WITH_FILES
from specdec.study.plan import instantiate, plan
from specdec.verify.token import TokenRule

ROOT = Path(__file__).parent.parent.parent
FAKE = {
    "drafter": EntryPoint("echo", "tests.study.test_choices:EchoDrafter", "specdec.drafters"),
    "rule": EntryPoint("polite", "tests.study.test_choices:PoliteRule [extra]", "specdec.rules"),
    "policy": EntryPoint("shy", "tests.study.test_choices:ShyPolicy", "specdec.policies"),
}
GONE = EntryPoint("gone", "no_such_module:Rule", "specdec.rules")


class EchoDrafter(NgramDrafter):
    """Echoes. With a loudness."""

    name = "echo"

    def __init__(self, num_draft_tokens: int = 5, loudness: int = 1) -> None:
        super().__init__(num_draft_tokens)
        self.loudness = loudness


class PoliteRule(TokenRule):
    """Accepts, and says thank you."""

    name = "polite"


class ShyPolicy(AlwaysPolicy):
    """Drafts nothing."""

    name = "shy"


@pytest.fixture
def _installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if a package with these entry points were there; Hydra's store is as before in the end."""

    def entry_points(**words: str) -> EntryPoints:
        return EntryPoints([*FAKE.values(), GONE]).select(**words)

    monkeypatch.setattr(registry, "entry_points", entry_points)
    yield
    for group, entry in {**FAKE, "gone": GONE}.items():
        ConfigStore.instance().repo.get("rule" if entry is GONE else group, {}).pop(f"{entry.name}.yaml", None)


def job(*words: str) -> DictConfig:
    [config] = preflight.jobs(config_dir(), "study", words)
    return config


def test_every_name_of_ours_is_a_choice_of_its_class() -> None:
    for group, names in REGISTRIES.items():
        files = {path.stem for path in (ROOT / "configs" / group).glob("*.yaml")}
        assert set(names.targets(builtin=True)) & files == (set(names.names()) if group in WITH_FILES else set())
        for name, target in names.targets().items():
            words = {"model": ["drafter.draft=x"], "typical": ["certified=false"]}.get(name, [])
            assert job(f"{group}={name}", *words)[group]._target_ == target


@pytest.mark.usefixtures("_installed")
def test_an_installed_packages_parts_are_choices_by_name() -> None:
    config = job("drafter=echo", "rule=polite", "policy=shy", "sampling=sample", "+drafter.loudness=3")
    sweep.check(config)
    parts = plan(config)
    assert isinstance(parts.drafters[0], EchoDrafter)
    assert (parts.drafters[0].loudness, parts.drafters[0].num_draft_tokens) == (3, 5)
    assert isinstance(parts.rule, PoliteRule)
    assert isinstance(parts.policy, ShyPolicy)
    axes = {name: parts.axes[name] for name in ("drafter", "rule", "policy", "loudness")}
    assert axes == {"drafter": "echo", "rule": "polite", "policy": "shy", "loudness": 3}
    assert len(preflight.jobs(config_dir(), "study", ["-m", "drafter=ngram,echo", "rule=token,polite"])) == 4


@pytest.mark.usefixtures("_installed")
def test_an_option_without_a_plus_is_answered_with_one() -> None:
    with pytest.raises(
        ConfigError,
        match=r"of drafter: _target_\. Another option of the class takes a plus: \+drafter\.loudness=…",
    ):
        job("drafter=echo", "drafter.loudness=3")


@pytest.mark.usefixtures("_installed")
def test_a_choice_that_cannot_be_loaded_is_refused_with_its_name() -> None:
    with pytest.raises(ConfigError, match=r"^rule: .*no_such_module"):
        instantiate(job("rule=gone").rule, "rule")


@pytest.mark.usefixtures("_installed")
def test_help_describes_every_choice_in_a_line() -> None:
    lines = choices.descriptions().splitlines()
    for start, end in (("  echo ", "Echoes. With a loudness."), ("  polite ", "Accepts, and says thank you."),
                       ("  shy ", "Drafts nothing."), ("  auto ", "traversal for trees")):  # fmt: skip
        assert [line for line in lines if line.startswith(start) and line.endswith(end)]
    [gone] = [line for line in lines if line.startswith("  gone ")]
    assert "no_such_module" in gone


@pytest.mark.usefixtures("_installed")
def test_drafters_that_need_an_option_are_left_out_with_the_reason() -> None:
    names, reasons = choices.runnable()
    assert names[0] == "none"
    assert {"echo", "ngram", "early_exit"} < set(names)
    assert "model" not in names
    [reason] = [one for one in reasons if one.startswith("Left out: model. ")]
    assert "needs draft=" in reason
    assert len(names) + len(reasons) == len(registry.DRAFTERS.names())
