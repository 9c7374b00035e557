"""Seeded damage to a model's files: bytes, JSON values, and what stands in headers."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from tests.models.tinyfiles import make_module, make_tokenizer, write_gguf

TEMPLATE = """{%- for message in messages -%}
{{ '<s>' + message['role'] + ' ' + message['content'] | trim }}
{%- endfor -%}
{%- if add_generation_prompt %}{{ ' a b' }}{% endif -%}"""
HOSTILE_TEXTS = (
    "{{ 'x' * 10**9 }}", "{% for i in range(10**12) %}{% endfor %}", "{{ raise_exception('no') }}", "{{ messages",
    "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}", "{{ messages.__class__.__mro__ }}", "{{ 1 / 0 }}",
    "{{ messages[10**6].content }}", "\ufeff", "\x00", "{{ ''.join(['y'] * 10**8) }}", "{% include 'x' %}",
)  # fmt: skip
BOTTOMLESS = "a list in a list in a list"
DEEP: Any = []
for _ in range(120):
    DEEP = [DEEP]
HOSTILE: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 2, 7, 10**5, 10**9, 2**31, 2**63, 10**30, 10**400, 1e308, -1.5, float("nan"),
    float("inf"), "", "a", "../../x", "/dev/zero", "x" * 5000, "\ud800", [], {}, [0] * 3000, DEEP, {"a": {"b": 1}},
    [None], BOTTOMLESS, "llama", "gpt2", "auto", "32",
)  # fmt: skip
NUMBERS = (0, 1, 2**31 - 1, 2**31, 2**32 - 1, 10**6, 10**9, 2**40, 2**63, 2**64 - 1)
Mutate = Callable[[Random, Path], None]


@dataclass(frozen=True)
class Mutant:
    """A changed model.

    Args:
        kind: which file was changed.
        number: its seed within the kind.
        path: what to load.
    """

    kind: str
    number: int
    path: Path


def make_originals(folder: Path) -> None:
    """Three sound models to start from: `whole` and `sharded` folders, and `tiny.gguf`."""
    module, tokenizer = make_module(), make_tokenizer()
    tokenizer.chat_template = TEMPLATE
    for name, size in (("whole", "1GB"), ("sharded", "20KB")):
        module.save_pretrained(folder / name, max_shard_size=size)
        tokenizer.save_pretrained(folder / name)
    write_gguf(folder / "tiny.gguf", module)


def mutants(originals: Path, into: Path, counts: dict[str, int]) -> Iterator[Mutant]:
    """As many changed models of each kind as are asked for, made one at a time.

    Args:
        originals: see `make_originals`.
        into: an empty folder.
        counts: key of `KINDS` → how many.
    """
    for kind, count in counts.items():
        original, file, mutate = KINDS[kind]
        for number in range(count):
            path = into / f"{kind.replace(' ', '-')}-{number}{Path(original).suffix}"
            _copy(originals / original, path)
            mutate(Random(f"{kind} {number}"), path / file if file else path)
            yield Mutant(kind, number, path)


def _copy(source: Path, target: Path) -> None:
    if source.is_file():
        target.write_bytes(source.read_bytes())
        return
    target.mkdir()
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())


def change_bytes(random: Random, path: Path, first: int = 0, last: int | None = None) -> None:
    """One to three changes between two places: cut, flip, clear, repeat, leave out, overwrite a number."""
    data = bytearray(path.read_bytes())
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        begin = random.randrange(first, max(first + 1, min(last or len(data), len(data)) - 1))
        end = min(len(data), begin + random.choice((1, 4, 8, 40, 400)))
        change = random.randrange(6)
        if change == 0:
            del data[begin:]
        elif change == 1:
            for _ in range(random.choice((1, 1, 8))):
                data[random.randrange(begin, max(begin + 1, end)) if data else 0] ^= 1 << random.randrange(8)
        elif change == 2:
            data[begin:end] = bytes(end - begin)
        elif change == 3:
            data[begin:begin] = data[begin:end] * random.choice((1, 2, 50))
        elif change == 4:
            del data[begin:end]
        else:
            number = struct.pack("<Q", random.choice(NUMBERS))
            data[begin : begin + 8] = number[: random.choice((1, 4, 8))]
        if len(data) < first + 2:
            break
    path.write_bytes(bytes(data))


def change_json(random: Random, path: Path) -> None:
    """Changes one or two values, or the text itself."""
    text = path.read_text(encoding="utf-8")
    if random.random() < 0.15:
        change_bytes(random, path)
        return
    value = json.loads(text)
    for _ in range(random.choice((1, 1, 2))):
        value = _changed(random, value)
    text = json.dumps(value).replace(f'"{BOTTOMLESS}"', "[" * 10**5 + "]" * 10**5)
    path.write_bytes(text.encode("utf-8", "surrogatepass"))


def _changed(random: Random, root: Any) -> Any:
    places = [place for place in _places(root) if place]
    if not places:
        return _fresh(random.choice(HOSTILE))
    # Depth first by its level: a vocabulary's thousand entries are not all that is there.
    depth = random.choice(sorted({len(place) for place in places}))
    place = random.choice([one for one in places if len(one) == depth])
    holder = root
    for step in place[:-1]:
        holder = holder[step]
    last, change = place[-1], random.randrange(5)
    old = holder[last]
    if change == 0:
        del holder[last]
    elif change == 1 and isinstance(old, int | float):
        holder[last] = old * 10 ** random.choice((1, 3, 9, 30)) * random.choice((1, -1))
    elif change == 2 and isinstance(old, int | float | str):
        holder[last] = str(old) if not isinstance(old, str) else len(old)
    elif change == 3 and isinstance(holder, dict):
        holder[random.choice(list(holder))] = _fresh(old)
    else:
        holder[last] = _fresh(random.choice(HOSTILE))
    return root


def _fresh(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _places(value: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield before
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in entries:
        if len(before) < 8:
            yield from _places(each, (*before, key))


def change_safetensors(random: Random, path: Path) -> None:
    """Changes the header as JSON, the header as bytes, or any bytes."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    way = random.randrange(3)
    if way == 0:
        header = _changed(random, json.loads(data[8 : 8 + length]))
        text = json.dumps(header).encode("utf-8", "surrogatepass")
        path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    else:
        change_bytes(random, path, 0, 8 + length if way == 1 else None)


def change_gguf(random: Random, path: Path) -> None:
    """Changes the header, more often than the weights."""
    size = path.stat().st_size
    change_bytes(random, path, 0, 3000 if random.random() < 0.85 else size)


def change_template(random: Random, path: Path) -> None:
    """Puts something hostile somewhere, or changes bytes."""
    text = path.read_text(encoding="utf-8")
    if random.random() < 0.4:
        change_bytes(random, path)
        return
    place = random.choice((0, len(text), random.randrange(len(text))))
    path.write_bytes((text[:place] + random.choice(HOSTILE_TEXTS) + text[place:]).encode("utf-8"))


KINDS: dict[str, tuple[str, str, Mutate]] = {
    "safetensors": ("whole", "model.safetensors", change_safetensors),
    "index": ("sharded", "model.safetensors.index.json", change_json),
    "config": ("whole", "config.json", change_json),
    "generation config": ("whole", "generation_config.json", change_json),
    "tokenizer": ("whole", "tokenizer.json", change_json),
    "tokenizer config": ("whole", "tokenizer_config.json", change_json),
    "template": ("whole", "chat_template.jinja", change_template),
    "gguf": ("tiny.gguf", "", change_gguf),
}
"""Kind → original, the file in it, and what is done to that."""
