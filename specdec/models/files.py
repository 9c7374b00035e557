"""Which of a model folder's files may be read, and how: plain files of plausible size, and no code among them."""

from __future__ import annotations

import json
import os
import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from specdec.checks import shown
from specdec.errors import UnsupportedModelError
from specdec.foreign import described

LARGEST = {".json": 2**30, ".jinja": 2**22, ".txt": 2**28, ".model": 2**28, ".tiktoken": 2**28}
"""Bytes of the files that are read beside the weights, by suffix. Gemma's tokenizer.json has 33 million."""
LARGEST_CONFIG = 2**24
"""Bytes of a JSON file that is no vocabulary."""
DEEPEST = 64
"""Levels of lists and objects in such a file. What reads it later calls itself once a level."""
INDEXES = {".safetensors": "model.safetensors.index.json", ".bin": "pytorch_model.bin.index.json"}
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
NEEDED = "Give a folder with config.json and safetensors weights, a GGUF file, or a hub id."
WRITE_AGAIN = "Write or copy the file again."


def refusal(path: Path, why: str, remedy: str) -> UnsupportedModelError:
    """An error about one file: what is wrong, in words that follow "path: ", and what to do."""
    return UnsupportedModelError(f"Cannot read {path}: {why}. {remedy}")


@contextmanager
def opened(path: Path, largest: int | None = None) -> Iterator[BinaryIO]:
    """A plain file, to be read. A pipe or a device is refused unopened: it might never end, or never begin.

    Raises:
        UnsupportedModelError: if it is missing, no file, too large, or may not be read.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            kind = "folder" if stat.S_ISDIR(found.st_mode) else "pipe or a device"
            raise refusal(path, f"it is a {kind}, not a file", WRITE_AGAIN)
        if largest is not None and found.st_size > largest:
            raise refusal(path, f"it has {found.st_size} bytes, more than the {largest} of any model", WRITE_AGAIN)
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise refusal(path, f"{error.strerror or error}", "Check the path and its permissions.") from error


def json_file(path: Path, largest: int = LARGEST_CONFIG) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        UnsupportedModelError: see `opened` and `parsed`.
    """
    with opened(path, largest) as file:
        return parsed(file.read(largest + 1), path)


def parsed(text: bytes, path: Path) -> dict[str, Any]:
    """A JSON object in UTF-8, at most `DEEPEST` levels deep, that names no key twice and holds no NaN.

    Args:
        text: its bytes.
        path: where they are from, for messages.

    Raises:
        UnsupportedModelError: if it is something else.
    """
    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=_once, parse_constant=_constant)
    except (ValueError, RecursionError) as error:
        raise refusal(path, f"it is not JSON that a model can mean. {described(error)[:-1]}", WRITE_AGAIN) from error
    if not isinstance(value, dict):
        raise refusal(path, f"it holds {shown(value)}, and an object is needed", WRITE_AGAIN)
    if _depth(value) > DEEPEST:
        raise refusal(path, f"its lists and objects are more than {DEEPEST} levels deep", WRITE_AGAIN)
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"It names the key {shown(twice)} twice.")
    return found


def _constant(name: str) -> float:
    if name == "NaN":
        raise ValueError("It holds NaN.")
    return float(name)


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level and depth <= DEEPEST:
        containers = [one for one in level if isinstance(one, dict | list)]
        depth += bool(containers)
        level = [each for one in containers for each in (one.values() if isinstance(one, dict) else one)]
    return depth


def check_texts(folder: Path) -> None:
    """Checks every file beside the weights that a tokenizer or a model may read: JSON, templates, vocabularies.

    Raises:
        UnsupportedModelError: if one is no plain file, too large, or a small JSON file without an object.
    """
    for place in (folder, folder / "additional_chat_templates"):
        for path in sorted(place.iterdir()) if place.is_dir() else ():
            largest = LARGEST.get(path.suffix.lower())
            if largest is not None and not path.is_dir():
                with opened(path, largest) as file:
                    if path.suffix == ".jinja":
                        _check_text(file.read(), path)
    for name in ("config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json"):
        if os.path.lexists(folder / name):
            json_file(folder / name)


def _check_text(data: bytes, path: Path) -> None:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise refusal(path, f"it is no text in UTF-8 at byte {error.start}", WRITE_AGAIN) from error


def weight_files(folder: Path, named: Any = None, *, allow_pickle: bool = False) -> list[Path]:
    """The files that hold the weights, in the order in which transformers looks for them.

    Symbolic links are followed, wherever they lead: a hub's cache is made of them. Names inside the folder's files
    are not: they must be plain names.

    Args:
        folder: the model's.
        named: what the configuration calls the file; None leaves it to the usual names.
        allow_pickle: whether pickled weights may be among them.

    Raises:
        UnsupportedModelError: if one is missing or refused.
    """
    for name in _first_names(folder, named, allow_pickle):
        path = folder / name
        if not os.path.lexists(path):
            continue
        names = shards(path) if name.endswith(".index.json") else [name]
        for each in names:
            _check_name(path, each, allow_pickle)
            with opened(folder / each):
                pass
        return [folder / each for each in names]
    pickled = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLED)
    if pickled and not allow_pickle:
        raise UnsupportedModelError(
            f"{folder} holds pickled weights ({pickled[0]}) and no safetensors. Convert them, or accept the risk with "
            "allow_pickle=True."
        )
    raise UnsupportedModelError(f"{folder} holds no weights under a name that is known. {NEEDED}")


def _first_names(folder: Path, named: Any, allow_pickle: bool) -> tuple[str, ...]:
    if named is not None:
        _check_name(folder / "config.json", named, allow_pickle, (".safetensors", ".safetensors.index.json"))
        return (named,)
    safe = ("model.safetensors", INDEXES[".safetensors"])
    return (*safe, "pytorch_model.bin", INDEXES[".bin"]) if allow_pickle else safe


def shards(index: Path) -> list[str]:
    """Names of files in an index, each once."""
    where = json_file(index, LARGEST[".json"]).get("weight_map")
    if not isinstance(where, dict) or not where:
        raise refusal(index, "its weight_map says of no tensor where it is", WRITE_AGAIN)
    return sorted(set(map(str, where.values())))


def _check_name(origin: Path, name: Any, allow_pickle: bool, endings: tuple[str, ...] = (".safetensors",)) -> None:
    """A name that a file gives to weights may not lead elsewhere, nor to a format that can run code."""
    if not isinstance(name, str) or name != Path(name).name or "\\" in name or "\0" in name:
        raise refusal(origin, f"it names {shown(name)}, which is no file of its own folder", WRITE_AGAIN)
    if not name.endswith((*endings, *(PICKLED if allow_pickle else ()))):
        raise refusal(
            origin,
            f"it names {name!r}, which is no safetensors file and can run code when it is read",
            "Convert the weights to safetensors, or accept the risk with allow_pickle=True.",
        )
