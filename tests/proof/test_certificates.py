"""A certificate is examined for once, and again where the kept one cannot be believed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from specdec.proof import certificates
from specdec.proof.certificates import certificate_of
from specdec.registry import RULES
from specdec.verify.base import Rule
from tests.cachefolders import damaged, unwritable


@pytest.fixture
def examined(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Names of the rules that were examined; nothing is proven."""
    names: list[str] = []

    def certify(rule: Rule, quick: bool) -> Any:
        names.append(rule.name)
        return SimpleNamespace(
            rule=rule.name, declared_lossless=True, law_equal=True, faces_agree=True, largest_deviation=0, passed=True,
            laws=[1, 2], sampled=[3], failure=None, witness="",
        )  # fmt: skip

    monkeypatch.setattr(certificates, "certify", certify)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return names


def kept_files(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "cache" / "specdec").iterdir())


def test_a_rule_is_examined_once(examined: list[str], tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    first, second = (certificate_of(RULES.create("greedy")) for _ in range(2))
    assert first == second
    assert (first["settings"], first["passed"]) == (3, True)
    assert examined == ["greedy"]
    assert len(kept_files(tmp_path)) == 1
    assert not list(recwarn)


@damaged
def test_a_kept_certificate_that_something_happened_to_is_not_believed(
    damage: Callable[[Path], object], examined: list[str], tmp_path: Path
) -> None:
    whole = certificate_of(RULES.create("greedy"))
    [path] = kept_files(tmp_path)
    damage(path)
    with pytest.warns(RuntimeWarning, match="made anew"):
        assert certificate_of(RULES.create("greedy")) == whole
    assert len(examined) == 2


@unwritable
def test_where_nothing_can_be_kept_a_rule_is_still_examined(
    make_folder: Callable[[Path], Path], examined: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(make_folder(tmp_path)))
    with pytest.warns(RuntimeWarning, match="Nothing can be kept"):
        assert certificate_of(RULES.create("greedy"))["passed"]


def test_a_rule_may_have_any_name_and_need_no_file(examined: list[str], tmp_path: Path) -> None:
    """One of a plug-in, and one that was typed into a notebook."""
    greedy = type(RULES.create("greedy"))
    named = type("Named", (greedy,), {"name": "../../mine / yours\0", "__module__": greedy.__module__})
    typed = type("Typed", (greedy,), {"name": "typed", "__module__": "__nowhere__"})
    for rule in (named(), typed(), typed()):
        assert certificate_of(rule)["rule"] == rule.name
    assert examined == ["../../mine / yours\0", "typed", "typed"]
    assert len(kept_files(tmp_path)) == 1
