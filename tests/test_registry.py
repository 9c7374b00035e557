"""Names of our own methods and of other packages'."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from specdec import ConfigError, Engine, EngineConfig, SamplingParams
from specdec.drafters.ngram import NgramDrafter
from specdec.registry import DRAFTERS, POLICIES, RULES, Registry
from specdec.verify.base import Rule
from specdec.verify.block import BlockRule
from tests.engines import outputs, run, small_engine
from tests.tiny import llama

ENTRY_POINTS = """
[specdec.drafters]
echo = fake_methods:EchoDrafter
gone = fake_module_that_is_gone:Drafter
misspelt = fake_methods:EchoDraftr
needy = fake_needy:NeedyDrafter

[specdec.rules]
polite = fake_methods:PoliteRule
"""
METHODS = """
from specdec import Drafter, DraftTree
from specdec.verify.token import TokenRule


class EchoDrafter(Drafter):
    name = "echo"

    def propose(self, requests):
        return [DraftTree.chain(r.tokens[-1:] * min(self.num_draft_tokens, r.max_depth)) for r in requests]


class PoliteRule(TokenRule):
    name = "polite"
"""


@pytest.fixture
def _fake_distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An installed package with a drafter and a rule, and three entry points that cannot be loaded."""
    info = tmp_path / "fake_methods-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fake-methods\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(ENTRY_POINTS, encoding="utf-8")
    package = tmp_path / "fake_methods"
    package.mkdir()
    (package / "__init__.py").write_text(METHODS, encoding="utf-8")
    (tmp_path / "fake_needy.py").write_text("import fake_dependency_nobody_has\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in ("fake_methods", "fake_needy"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("registry", [DRAFTERS, RULES, POLICIES], ids=["drafters", "rules", "policies"])
def test_every_name_of_ours_is_that_of_its_class(registry: Registry[object]) -> None:
    names = registry.names()
    assert names == sorted(set(names))
    assert [getattr(registry.get(name), "name", None) for name in names] == names


def test_an_unknown_name_is_refused_with_the_valid_ones() -> None:
    registry: Registry[Rule] = Registry("rule", "specdec.nothing", {"b": "m:B", "a": "m:A"})
    with pytest.raises(ConfigError) as caught:
        registry.create("A")
    assert str(caught.value) == "Unknown rule 'A'. Valid names: a, b."


def test_options_reach_the_class() -> None:
    drafter = DRAFTERS.create("ngram", num_draft_tokens=7, branches=2)
    assert isinstance(drafter, NgramDrafter)
    assert (drafter.num_draft_tokens, drafter.max_nodes(7)) == (7, 14)
    assert type(RULES.create("block")) is BlockRule


def test_options_that_the_class_does_not_take_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"Drafter 'none' cannot be made with \{'num_layers': 2\}: .*num_layers"):
        DRAFTERS.create("none", num_layers=2)
    with pytest.raises(ConfigError, match="min_match = 0 cannot work"):  # the class's own complaint comes through
        DRAFTERS.create("ngram", min_match=0)


def test_implementations_are_imported_when_they_are_first_wanted() -> None:
    registry: Registry[Rule] = Registry("rule", "specdec.nothing", {"a": "no.such.module:Rule"})
    assert registry.names() == ["a"]
    with pytest.raises(ModuleNotFoundError):
        registry.get("a")


@pytest.mark.usefixtures("_fake_distribution")
def test_an_installed_packages_drafter_and_rule_generate_by_name() -> None:
    assert {"echo", "ngram"} <= set(DRAFTERS.names())
    assert {"polite", "token"} <= set(RULES.names())
    assert DRAFTERS.targets(builtin=False)["echo"] == "fake_methods.EchoDrafter"
    assert RULES.targets(builtin=False) == {"polite": "fake_methods.PoliteRule"}
    assert RULES.targets()["block"] == "specdec.verify.block.BlockRule"
    assert "fake_methods" not in sys.modules  # listing names imports nothing
    drafter = DRAFTERS.create("echo", num_draft_tokens=2)
    engine = Engine(llama(), drafter, "polite", EngineConfig(block_size=4, num_blocks=64, max_batch_tokens=64))
    assert type(drafter).__module__ == "fake_methods"
    prompts = [[1, 2, 3], [7, 7]]
    greedy = SamplingParams(max_tokens=8)
    requests = run(engine, prompts, greedy)
    assert outputs(requests) == outputs(run(small_engine(DRAFTERS.create("none")), prompts, greedy))
    [sampled] = run(engine, prompts[:1], SamplingParams(max_tokens=8, temperature=1.0, seed=3))
    assert sampled.rule.name == "polite"
    assert sampled.stats.drafted_tokens > 0
    assert len(sampled.output) == 8


@pytest.mark.usefixtures("_fake_distribution")
def test_the_path_of_a_class_is_a_name() -> None:
    for path in ("fake_methods.EchoDrafter", "fake_methods:EchoDrafter"):
        assert DRAFTERS.create(path, num_draft_tokens=2).name == "echo"
    for path in ("fake_methods.Gone", "no.such.module"):
        with pytest.raises(ConfigError, match=f"Drafter '{path}' cannot be imported: .* in the current folder"):
            DRAFTERS.create(path)


@pytest.mark.usefixtures("_fake_distribution")
def test_an_error_for_an_unknown_name_lists_those_of_other_packages() -> None:
    with pytest.raises(ConfigError, match=r"Unknown drafter 'ecco'\. Valid names: .*\becho, .*\bngram, "):
        DRAFTERS.get("ecco")
    with pytest.raises(ConfigError, match=r"Unknown rule 'impolite'\. Valid names: .*\bpolite, .*\btoken, "):
        RULES.get("impolite")


@pytest.mark.usefixtures("_fake_distribution")
@pytest.mark.parametrize(
    ("name", "target", "cause"),
    [
        ("gone", "fake_module_that_is_gone:Drafter", "fake_module_that_is_gone"),
        ("misspelt", "fake_methods:EchoDraftr", "EchoDraftr"),
        ("needy", "fake_needy:NeedyDrafter", "fake_dependency_nobody_has"),
    ],
)
def test_an_entry_point_that_cannot_be_loaded_is_named_with_what_it_lacks(name: str, target: str, cause: str) -> None:
    with pytest.raises(ConfigError) as caught:
        DRAFTERS.get(name)
    for part in (repr(name), target, cause):
        assert part in str(caught.value)
