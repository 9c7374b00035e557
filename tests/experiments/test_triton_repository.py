"""What is written for the Triton Inference Server, read without it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from experiments import triton_repository
from experiments._environments import installed
from experiments._triton import repository
from specdec.errors import ConfigError

Message = dict[str, list[Any]]
"""Name of a field → its values, in order."""
NASTY = 'a "quoted" \\ path\nwith ü'


def fields(words: Iterator[str]) -> Message:
    """Protobuf's text format, up to a closing brace."""
    found: Message = {}
    for name in words:
        if name == "}":
            break
        found.setdefault(name, []).extend(values(words))
    return found


def values(words: Iterator[str]) -> list[Any]:
    word = next(words)
    word = next(words) if word == ":" else word
    if word != "[":
        return [value(word, words)]
    return [value(each, words) for each in iter(lambda: next(words), "]") if each != ","]


def value(word: str, words: Iterator[str]) -> Any:
    return fields(words) if word == "{" else json.loads(word) if word[0] == '"' else word


def config(folder: Path, model: str) -> Message:
    text = (folder / model / "config.pbtxt").read_text(encoding="utf-8")
    return fields(iter(re.findall(r'"(?:[^"\\]|\\.)*"|[{}\[\]:,]|[^\s{}\[\]:,"]+', text)))


def settings(found: Message) -> Any:
    [entry] = found["parameters"]
    assert entry["key"] == ["settings"]
    return json.loads(entry["value"][0]["string_value"][0])


def tensors(found: Message, side: str) -> dict[str, tuple[str, list[str]]]:
    return {each["name"][0]: (each["data_type"][0], each["dims"]) for each in found[side]}


def test_each_model_has_its_name_its_configuration_and_its_program(tmp_path: Path) -> None:
    repository.write(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["drafter", "propose", "target", "tokenize"]
    for folder in tmp_path.iterdir():
        found = config(tmp_path, folder.name)
        assert found["name"] == [folder.name]
        assert (folder / "1").is_dir()
        assert (folder / "1" / "model.py").is_file() == (found.get("backend") == ["python"])


def test_settings_reach_the_programs_as_they_are(tmp_path: Path) -> None:
    repository.write(tmp_path, NASTY, "ngram", "suffix", dtype="int8", config={"max_num_seqs": 2})
    target = {"target": NASTY, "drafter": "ngram", "config": {"max_num_seqs": 2}, "dtype": "int8"}
    assert settings(config(tmp_path, "target")) == target
    assert settings(config(tmp_path, "tokenize")) == {"target": NASTY}
    assert settings(config(tmp_path, "drafter")) == {"target": NASTY, "drafter": "suffix", "options": {}}


def test_a_target_in_this_folder_is_found_from_every_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    repository.write(tmp_path, "model")
    for name in ("target", "tokenize", "drafter"):
        assert settings(config(tmp_path, name))["target"] == str(tmp_path / "model")


def test_the_target_streams_and_batches_by_itself_and_the_drafter_is_batched(tmp_path: Path) -> None:
    repository.write(tmp_path)
    target, drafter = config(tmp_path, "target"), config(tmp_path, "drafter")
    assert (target["max_batch_size"], target["model_transaction_policy"]) == (["0"], [{"decoupled": ["true"]}])
    assert "dynamic_batching" not in target
    assert int(drafter["max_batch_size"][0]) > 1
    assert "dynamic_batching" in drafter
    [texts] = [each for each in drafter["input"] if each["name"] == ["token_ids"]]
    assert texts["allow_ragged_batch"] == ["true"]  # texts of different lengths in one batch


def test_the_ensemble_joins_tensors_of_the_same_kind(tmp_path: Path) -> None:
    repository.write(tmp_path)
    whole = config(tmp_path, "propose")
    known = tensors(whole, "input")
    for step in whole["ensemble_scheduling"][0]["step"]:
        model = config(tmp_path, step["model_name"][0])
        wanted, made = tensors(model, "input"), tensors(model, "output")
        into = {each["key"][0]: known[each["value"][0]] for each in step["input_map"]}
        assert into == wanted
        known |= {each["value"][0]: made[each["key"][0]] for each in step["output_map"]}
    assert tensors(whole, "output").items() <= known.items()


def test_a_repository_is_written_over_and_other_models_stay(tmp_path: Path) -> None:
    for old in (tmp_path / "target" / "7", tmp_path / "mine"):
        old.mkdir(parents=True)
    repository.write(tmp_path)
    assert not (tmp_path / "target" / "7").exists()
    assert (tmp_path / "mine").exists()


def test_the_command_writes_and_starts_nothing_without_an_environment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    triton_repository.main([f"out={tmp_path / 'models'}", "home=null", "drafter=suffix", "target=there"])
    assert settings(config(tmp_path / "models", "target")) == {"target": "there", "drafter": "suffix", "config": {}}
    assert capsys.readouterr().out == f"The models are in {tmp_path / 'models'}.\n"


def test_an_option_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="Unknown option 'drafters'"):
        triton_repository.main(["drafters=ngram"])


def test_an_environment_is_made_once(tmp_path: Path) -> None:
    """What is stamped with these requirements is left alone: there is no pip in it that could run."""
    (tmp_path / ".installed").write_text("--no-deps\nx==1", encoding="utf-8")
    assert installed(tmp_path, ("--no-deps", "x==1")) == tmp_path / "bin"


@pytest.mark.slow
def test_what_cannot_be_installed_is_said_and_leaves_no_stamp(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing-there==1 cannot be installed: ERROR: No matching distribution"):
        installed(tmp_path, ("--no-index", "nothing-there==1"))
    assert not (tmp_path / ".installed").exists()
