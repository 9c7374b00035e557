"""What is kept comes back as it was, or is made anew with one warning; nothing that is wrong there stops a program."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from specdec import kept
from specdec.paths import private_folder
from tests.cachefolders import DAMAGES, below_a_file, damaged, room_for, unwritable

Damage = MakeFolder = Callable[[Path], Any]

CONTENTS = [b"", b"\n", b"text", b'{"a": 1}\n', bytes(range(256)) * 300, b'\n{"specdec": 1}\n']
VALUE = {"rows": [1, 2], "word": "naïve\n", "number": 0.1}


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a process that has kept nothing so far."""
    for name, empty in (("_unwritten", {}), ("_told", set())):
        monkeypatch.setattr(kept, name, empty)


class Work:
    """Makes a value, and counts how often."""

    def __init__(self) -> None:
        self.times = 0

    def make(self) -> dict[str, Any]:
        self.times += 1
        return dict(VALUE)

    def at(self, path: Path) -> dict[str, Any]:
        return kept.kept_value(path, self.make, dict, dict)


@contextmanager
def warned(*parts: str) -> Iterator[None]:
    """Exactly one warning inside, with these words; none if there are no words."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    said = [str(each.message) for each in caught]
    assert len(said) == bool(parts), said
    for part in parts:
        assert part in said[0]


@pytest.mark.parametrize("content", CONTENTS)
def test_an_entry_comes_back_as_it_was(content: bytes, tmp_path: Path) -> None:
    with warned():
        assert kept.store(tmp_path / "new" / "entry", content, {"made by": "me"})
        assert kept.recall(tmp_path / "new" / "entry") == (content, {"made by": "me"})
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["entry"]


def test_what_is_not_there_is_nothing_and_needs_no_warning(tmp_path: Path) -> None:
    with warned():
        assert kept.recall(tmp_path / "nothing") is None
        assert kept.recall(tmp_path / "no folder" / "nothing") is None


def test_a_value_is_made_once_and_kept(tmp_path: Path) -> None:
    work = Work()
    with warned():
        assert [work.at(tmp_path / "value") for _ in range(3)] == [VALUE] * 3
    assert work.times == 1


@damaged
def test_an_entry_that_something_happened_to_is_one_warning_and_made_anew(damage: Damage, tmp_path: Path) -> None:
    path, work = tmp_path / "value", Work()
    work.at(path)
    damage(path)
    with warned(str(path), "made anew"):
        assert work.at(path) == VALUE
    with warned():
        assert work.at(path) == VALUE
    assert work.times == 2
    assert list(tmp_path.iterdir()) == [path]


def test_an_entry_of_another_version_is_one_warning_and_made_anew(tmp_path: Path) -> None:
    path, work = tmp_path / "value", Work()
    work.at(path)
    path.write_bytes(path.read_bytes().replace(b'"specdec": 1', b'"specdec": 2'))
    with warned(str(path), "seal of this version"):
        work.at(path)
    assert work.times == 2


def test_a_link_to_nothing_is_no_entry(tmp_path: Path) -> None:
    (tmp_path / "value").symlink_to("nowhere")
    with warned():
        assert [Work().at(tmp_path / "value") for _ in range(2)] == [VALUE] * 2
    assert [path.name for path in tmp_path.iterdir()] == ["value"]


@pytest.mark.parametrize("value", [[], None, 7, "text", {"rows": 3}, {"rows": ["x"]}], ids=repr)
def test_a_whole_entry_of_another_type_is_one_warning_and_made_anew(value: object, tmp_path: Path) -> None:
    path = tmp_path / "value"
    kept.kept_value(path, lambda: value, lambda found: found, lambda made: made)
    with warned(str(path), "holds something else"):
        rows = kept.kept_value(path, lambda: [5], lambda found: [int(row) for row in found["rows"]], lambda made: made)
    assert rows == [5]


def test_an_entry_larger_than_any_is_not_even_read(tmp_path: Path) -> None:
    path = tmp_path / "value"
    path.touch()
    os.truncate(path, 1 << 40)  # takes no room
    with warned(str(path), "1099511627776 bytes"):
        assert Work().at(path) == VALUE


@unwritable
def test_where_nothing_can_be_written_memory_serves_after_one_warning(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder, work = make_folder(tmp_path), Work()
    with warned(str(folder), "Nothing can be kept", "XDG_CACHE_HOME"):
        for name in ("one", "other"):
            assert [work.at(folder / name) for _ in range(2)] == [VALUE] * 2
    assert work.times == 2


def test_a_disk_that_is_full_costs_a_warning_and_leaves_no_half_file(tmp_path: Path) -> None:
    work = Work()
    with warned("Nothing can be kept"), room_for(10):
        assert [work.at(tmp_path / "value") for _ in range(2)] == [VALUE] * 2
    assert work.times == 1
    assert list(tmp_path.iterdir()) == []


def test_an_entry_that_could_not_be_replaced_is_the_old_one_for_others(tmp_path: Path) -> None:
    kept.store(tmp_path / "value", b"old")
    with warned("Nothing can be kept"), room_for(10):
        kept.store(tmp_path / "value", b"new" * 100)
    assert kept.recall(tmp_path / "value") == (b"new" * 100, {})
    kept._unwritten.clear()
    assert kept.recall(tmp_path / "value") == (b"old", {})


ALONE = """
import sys, types
from pathlib import Path
sys.modules["specdec"] = package = types.ModuleType("specdec")
package.__path__ = [sys.argv.pop()]
from specdec import kept
"""
"""Begins a program that uses the module without the rest of the package, which takes seconds to import."""


def two_at_once(program: str, path: Path) -> None:
    """Runs a program twice, with the path and a letter. Every warning is an error in it."""
    command = [sys.executable, "-W", "error", "-c", ALONE + program, str(path)]
    running = [subprocess.Popen([*command, letter, str(Path(kept.__file__).parent)]) for letter in "ab"]
    assert [each.wait(60) for each in running] == [0, 0]


MANY = """
path = Path(sys.argv[1])
for number in range(100):
    kept.store(path, sys.argv[2].encode() * (1 + number * 50))
    content, _ = kept.recall(path)
    assert len(set(content)) == 1
"""


def test_processes_that_keep_the_same_entry_at_once_see_whole_ones(tmp_path: Path) -> None:
    two_at_once(MANY, tmp_path / "entry")
    assert [path.name for path in tmp_path.iterdir()] == ["entry"]


def test_what_a_stopped_process_left_is_removed_when_it_is_old(tmp_path: Path) -> None:
    for name in (f".old{kept.PART}", f".new{kept.PART}", "other"):
        (tmp_path / name / "inside").mkdir(parents=True)
    for name in (f".old{kept.PART}", "other"):
        os.utime(tmp_path / name, (0, 0))
    kept.store(tmp_path / "entry", b"")
    assert sorted(path.name for path in tmp_path.iterdir()) == [f".new{kept.PART}", "entry", "other"]


class Filling:
    """Makes a folder with a small and a large file, and counts how often."""

    def __init__(self) -> None:
        self.times = 0
        self.large = random.Random(0).randbytes(kept.BLOCK * kept.BLOCKS + 12345)

    def __call__(self, folder: Path) -> None:
        self.times += 1
        (folder / "below").mkdir()
        (folder / "below" / "small.json").write_text('{"a": 1}')
        (folder / "large").write_bytes(self.large)

    def at(self, folder: Path) -> Path:
        found = kept.kept_folder(folder, self)
        assert found is not None
        assert (found / "below" / "small.json").read_text() == '{"a": 1}'
        assert (found / "large").read_bytes() == self.large
        return found


def test_a_folder_is_made_once_and_kept(tmp_path: Path) -> None:
    filling = Filling()
    with warned():
        assert [filling.at(tmp_path / "made") for _ in range(3)] == [tmp_path / "made"] * 3
    assert filling.times == 1
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


@pytest.mark.parametrize("name", ["below/small.json", kept.SEAL])
@damaged
def test_a_folder_with_a_damaged_file_is_one_warning_and_made_anew(damage: Damage, name: str, tmp_path: Path) -> None:
    filling = Filling()
    filling.at(tmp_path / "made")
    damage(tmp_path / "made" / name)
    with warned(str(tmp_path / "made"), "made anew"):
        filling.at(tmp_path / "made")
    with warned():
        filling.at(tmp_path / "made")
    assert filling.times == 2
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


@pytest.mark.parametrize("damage", [name for name in DAMAGES if not name.startswith("a bit")])
def test_a_large_file_is_looked_at_in_pieces(damage: str, tmp_path: Path) -> None:
    """Whatever happens to more than a few bytes of it is seen."""
    filling = Filling()
    filling.at(tmp_path / "made")
    DAMAGES[damage](tmp_path / "made" / "large")
    with warned("large"):
        filling.at(tmp_path / "made")
    assert filling.times == 2


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch, lambda place: place.symlink_to("nowhere")])
def test_what_lies_in_a_folders_place_makes_way(make: Damage, tmp_path: Path) -> None:
    filling = Filling()
    make(tmp_path / "made")
    with warned(str(tmp_path / "made"), "not finished"):
        filling.at(tmp_path / "made")
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_a_file_that_was_never_part_of_a_folder_does_no_harm(tmp_path: Path) -> None:
    filling = Filling()
    filling.at(tmp_path / "made")
    (tmp_path / "made" / "notes.txt").write_text("mine")
    with warned():
        filling.at(tmp_path / "made")
    assert filling.times == 1


@unwritable
def test_a_folder_that_cannot_be_kept_is_a_temporary_one(make_folder: MakeFolder, tmp_path: Path) -> None:
    target, filling = make_folder(tmp_path) / "made", Filling()
    with warned(str(target.parent), "Nothing can be kept"):
        found = [filling.at(target) for _ in range(2)]
    assert found == [private_folder() / "made"] * 2  # type: ignore[operator]
    assert filling.times == 1
    shutil.rmtree(found[0])


def test_where_nothing_can_be_written_at_all_there_is_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "private_folder", lambda: None)
    with warned("Nothing can be kept"):
        assert kept.kept_folder(below_a_file(tmp_path) / "made", Filling()) is None


def test_a_disk_that_fills_up_while_a_folder_is_made_keeps_nothing_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "private_folder", lambda: None)
    with warned("Nothing can be kept"), room_for(1000):
        assert kept.kept_folder(tmp_path / "made", Filling()) is None
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_the_maker_is_not_taken_for_a_full_disk(tmp_path: Path) -> None:
    def fails(folder: Path) -> None:
        (folder / "begun").touch()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        kept.kept_folder(tmp_path / "made", fails)
    assert list(tmp_path.iterdir()) == []


def test_a_whole_folder_that_is_there_is_never_moved_away(tmp_path: Path) -> None:
    """Another process may be reading it. Its maker was faster between the last look and the move."""
    first, second = tmp_path / "first", tmp_path / "second"
    place = Filling().at(first)
    was = place.stat().st_ino
    kept._put(Filling().at(second), place)
    assert place.stat().st_ino == was


FOLDERS = """
def make(folder):
    for name in "ab":
        (folder / name).write_text(sys.argv[2] * 100)
for number in range(500):
    found = kept.kept_folder(Path(sys.argv[1]) / str(number), make)
    assert found.parent == Path(sys.argv[1])
    assert len({(found / name).read_text() for name in "ab"}) == 1
"""


def test_processes_that_make_the_same_folders_at_once_see_whole_ones(tmp_path: Path) -> None:
    two_at_once(FOLDERS, tmp_path)
    assert len(list(tmp_path.iterdir())) == 500
