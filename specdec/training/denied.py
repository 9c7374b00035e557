"""Texts that a head may not learn from: the sets that it will be measured on.

Two texts overlap if they share a run of 13 words, the measure of Brown et al. 2020, appendix C. A list of denied texts
can be kept as hashes of its runs, from which no text can be read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from specdec.errors import ConfigError
from specdec.places import write
from specdec.prompts.files import read as read_rows

GRAM, FEWEST = 13, 8
"""Words in a row that no text may share with a denied one, and words of the shortest text that is looked for as a
whole: names of categories and the like are words of everyone."""
SUFFIX = ".grams"
"""Of a file with hashes in place of texts."""
_FACTOR = np.uint64(0x9E3779B97F4A7C15)

Hashes = NDArray[np.uint64]


class Denied:
    """Texts that nothing may overlap with, by their runs of `GRAM` words; shorter ones as a whole, from `FEWEST` on.

    A text that shares nothing is taken for one that does with a chance below 1e-9 for a million denied runs.

    >>> Denied(["A cat, a dog, and a bird sat still."]).holds("There a cat a dog and a bird sat still")
    True
    """

    def __init__(self, texts: Iterable[str] = ()) -> None:
        runs: dict[int, list[Hashes]] = {}
        for text in texts:
            words = _words(text)
            if len(words) >= FEWEST:
                size = min(GRAM, len(words))
                runs.setdefault(size, []).append(_runs(words, size))
        self._runs: Mapping[int, Hashes] = {size: np.unique(np.concatenate(each)) for size, each in runs.items()}

    def holds(self, text: str) -> bool:
        """Whether the text shares a run of words with a denied one."""
        words = _words(text)
        return any(np.isin(_runs(words, size), denied).any() for size, denied in self._runs.items())

    @classmethod
    def read(cls, paths: Sequence[Path]) -> Denied:
        """From prompt files, of which every text in every column counts, and from files of hashes (`SUFFIX`).

        Raises:
            ConfigError: for a file that is missing or damaged.
        """
        hashed = [path for path in paths if path.suffix == SUFFIX]
        found = cls(text for path in paths if path not in hashed for row in read_rows(path) for text in _texts(row))
        return found._with(_loaded(path) for path in hashed)

    def save(self, path: Path) -> None:
        """Writes the hashes; the file's name must end in `SUFFIX`."""
        write(path, save({str(size): runs for size, runs in self._runs.items()}))

    def _with(self, others: Iterable[Mapping[int, Hashes]]) -> Denied:
        whole = Denied()
        runs = dict(self._runs)
        for other in others:
            for size, more in other.items():
                runs[size] = np.union1d(runs.get(size, more), more)
        whole._runs = runs
        return whole


def _loaded(path: Path) -> dict[int, Hashes]:
    try:
        return {int(size): np.asarray(runs, np.uint64) for size, runs in load(path.read_bytes()).items()}
    except Exception as error:
        raise ConfigError(
            f"{path} is not a file of hashes: {error}. Write one with Denied(texts).save(path)."
        ) from error


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def _runs(words: Sequence[str], size: int) -> Hashes:
    """A polynomial hash, modulo 2^64, of every run of `size` words."""
    if len(words) < size:
        return np.empty(0, np.uint64)
    hashed = np.fromiter(map(_hash, words), np.uint64, len(words))
    total = np.zeros(len(words) - size + 1, np.uint64)
    for offset in range(size):
        total = total * _FACTOR + hashed[offset : len(words) - size + 1 + offset]
    return total


@lru_cache(maxsize=1 << 18)
def _hash(word: str) -> int:
    return int.from_bytes(blake2b(word.encode(errors="surrogatepass"), digest_size=8).digest(), "little")


def _texts(value: object) -> Iterator[str]:
    """Every text in a row, whatever its columns."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from (text for one in value.values() for text in _texts(one))
    elif isinstance(value, list):
        yield from (text for one in value for text in _texts(one))
