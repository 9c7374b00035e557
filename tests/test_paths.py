"""Where the cache lies, whatever the environment says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from specdec import paths
from specdec.paths import cache_dir, entry_name, private_folder

CHILD = """
import os, sys
from specdec.paths import private_folder
first = private_folder()
if os.fork() == 0:
    assert private_folder() != first
    sys.exit(0)
assert os.wait()[1] == 0
assert first.is_dir(), "the child removed its parent's folder"
"""


@pytest.mark.parametrize("value", ["", "relative/folder", "~/folder"])
def test_a_place_that_is_no_absolute_path_counts_as_none(
    value: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A relative one would be another folder wherever the program runs."""
    monkeypatch.setenv("XDG_CACHE_HOME", value)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == tmp_path / ".cache" / "specdec"


def test_a_user_whom_no_file_names_and_who_has_no_home_has_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert cache_dir() == private_folder() / "specdec"  # type: ignore[operator]


def test_a_private_folder_is_gone_when_its_process_has_ended_and_no_child_removes_it(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", CHILD], env={**os.environ, "TMPDIR": str(tmp_path)}, check=True)
    assert list(tmp_path.iterdir()) == []


def test_without_any_folder_there_is_no_private_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(prefix: str) -> str:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(paths, "_private", {})
    monkeypatch.setattr(paths.tempfile, "mkdtemp", refuse)
    assert private_folder() is None


@pytest.mark.parametrize(
    "stem", ["", ".", "..", "../../up", "a/b", "nul\0", "x" * 400, "\udcff", "名前", ".hidden", "a b"]
)
def test_whatever_a_thing_is_called_its_entry_is_a_file_in_the_folder(stem: str, tmp_path: Path) -> None:
    path = tmp_path / f"{entry_name(stem)}.json"
    path.write_text("")
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    assert not path.name.startswith(".")


def test_entries_of_different_things_have_different_names() -> None:
    told = [("a",), ("a", ""), ("a", "b"), ("a", "b", "c"), ("a", "bc"), ("a b", "c"), ("a_b", "c"), ("a/b", "c")]
    assert len({entry_name(*each) for each in told}) == len(told)
    assert entry_name("a", "b") == entry_name("a", "b")
