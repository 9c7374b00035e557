"""Tells what a store holds, and for which tokenizer.

specdec store show FILE
"""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from specdec.commands.application import application
from specdec.stores import Store, read
from specdec.study.plan import values_of


def _show(config: DictConfig) -> None:
    """A line for each thing that is known of it."""
    path = Path(config.file)
    store = read(path)
    lines = {
        "file": f"{path}, {path.stat().st_size} bytes, whole and undamaged",
        **dict(sorted(store.note.items())),
        "vocabulary": f"{store.vocabulary.size} ids, fingerprint {store.vocabulary.fingerprint.hex()[:16]}",
        "holds": _holdings(store),
    }
    width = max(map(len, lines))
    for name, value in lines.items():
        print(f"{_printable(name):<{width}}  {_printable(value)}")


def _holdings(store: Store) -> str:
    sorted_ = "in suffix order" if store.order is not None else "not in suffix order: that is made when it is opened"
    return f"{store.num_texts} texts, {store.num_tokens} tokens, {sorted_}"


def _printable(text: str) -> str:
    """Without what would steer a terminal: the note is anyone's."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _check(config: DictConfig) -> None:
    values_of(config)


main = application("store_show", _show, _check, word="file")
