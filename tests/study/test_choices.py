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
    config = job(
        "drafter=echo", "rule=polite", "policy=shy", "sampling=sample", "drafter.loudness=3", "certified=false"
    )
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
def test_an_option_of_an_installed_class_is_written_as_ours_are() -> None:
    assert job("drafter=echo", "drafter.loudness=3").drafter.loudness == 3
    with pytest.raises(
        ConfigError, match=r"drafter\.lodness\. Did you mean drafter\.loudness\? Valid keys of drafter: lou"
    ):
        job("drafter=echo", "drafter.lodness=3")


OWN = "tests.study.test_choices"


@pytest.mark.parametrize("path", [f"{OWN}.EchoDrafter", f"{OWN}:EchoDrafter"])
def test_the_path_of_a_class_is_a_choice(path: str) -> None:
    parts = plan(job(f"drafter={path}", "drafter.loudness=3", f"rule={OWN}.PoliteRule", "sampling=sample"))
    [drafter] = parts.drafters
    assert isinstance(drafter, EchoDrafter)
    assert (drafter.loudness, parts.axes["rule"]) == (3, "polite")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("drafter=no_such_module.Mine", "drafter: .*no_such_module"),
        (f"drafter={OWN}.PoliteRule", "drafter=.*PoliteRule'? is no Drafter"),
        (f"rule={OWN}.EchoDrafter", "rule=.*EchoDrafter'? is no Rule"),
    ],
)
def test_a_path_of_something_else_is_refused(word: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(job(word))


@pytest.mark.usefixtures("_installed")
def test_options_reach_only_the_classes_that_take_them() -> None:
    words = [
        "-m",
        "drafter=none,ngram,echo",
        "drafter.num_draft_tokens=2,4",
        "drafter.loudness=3",
        "drafter.min_match=2",
    ]
    found = [dict(config.drafter) for config in preflight.jobs(config_dir(), "study", words)]
    ngram = {"_target_": "specdec.drafters.ngram.NgramDrafter", "min_match": 2, "max_match": 4, "branches": 1}
    assert found == [
        *[{"_target_": "specdec.drafters.none.NoDrafter"}] * 2,
        *[{**ngram, "num_draft_tokens": count} for count in (2, 4)],
        *[{"_target_": f"{OWN}.EchoDrafter", "num_draft_tokens": count, "loudness": 3} for count in (2, 4)],
    ]
    with pytest.raises(ConfigError, match=r"No drafter of this command takes drafter\.shyness"):
        preflight.jobs(config_dir(), "study", [*words, "drafter.shyness=1"])


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (["drafter=ngram,custom", "drafter._target_=a.B", "+drafter.x=3"], ["drafter=ngram,a.B", "drafter.x=3"]),
        (["drafter=custom", "drafter._target_=a.B,c.D"], ["drafter=a.B,c.D"]),
        (["rule=custom", "rule._target_=a.B", "drafter=ngram"], ["rule=a.B", "drafter=ngram"]),
        (["drafter=custom", "++rule.x=1", "+sampling.logit_bias={5:1}"],
         ["drafter=custom", "rule.x=1", "+sampling.logit_bias={5:1}"]),
    ],
)  # fmt: skip
def test_the_class_that_custom_names_is_its_own_alone(typed: list[str], meant: list[str]) -> None:
    assert choices.simplified(typed) == meant


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
