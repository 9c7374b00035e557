"""A store of millions of tokens: whole from text to draft, within a bounded memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from specdec.kernels.retrieval import Index, Limits, grow
from specdec.stores import Store, Vocabulary, read
from specdec.stores.order import DEPTH

pytestmark = pytest.mark.slow
TOKENS, LENGTH, SIZE = 5_000_000, 1000, 49_152
MOST_MEMORY = 3 << 30
BUILD = """
import sys
from pathlib import Path
from specdec.measure.summary import peak_host_memory
from specdec.stores import Store, Vocabulary, write
from tests.stores.test_large import SIZE, texts
write(Path(sys.argv[1]), Store.of(texts(), Vocabulary.of(SIZE, None), ordered=True))
print(peak_host_memory())
"""


def texts() -> list[np.ndarray]:
    """Tokens by Zipf's law, and runs that come again."""
    draw = np.random.default_rng(0)
    tokens = draw.zipf(1.2, TOKENS) % SIZE
    for at in draw.integers(0, TOKENS - 100, 20_000):
        tokens[at : at + 40] = tokens[:40]
    return list(tokens.reshape(-1, LENGTH))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    path = tmp_path_factory.mktemp("large") / "a.store"
    build = [sys.executable, "-c", BUILD, str(path)]
    root = Path(__file__).parents[2]
    done = subprocess.run(build, capture_output=True, text=True, timeout=900, check=False, cwd=root)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < MOST_MEMORY
    return read(path, Vocabulary.of(SIZE, None))


def test_millions_of_tokens_come_back_in_order(store: Store) -> None:
    assert store.num_tokens == TOKENS
    assert all((ours == theirs).all() for ours, theirs in zip(store.texts(), texts(), strict=True))
    assert store.order is not None
    assert np.array_equal(np.sort(store.order), np.arange(len(store.tokens)))
    draw = np.random.default_rng(1)
    for place in draw.integers(0, len(store.order) - 1, 20_000).tolist():
        first, second = (int(store.order[at]) for at in (place, place + 1))
        ours, theirs = (store.tokens[at : at + DEPTH].tolist() for at in (first, second))
        assert (ours, first) < (theirs, second)


def test_drafts_from_millions_of_tokens_are_those_of_a_scan(store: Store) -> None:
    assert store.order is not None
    index = Index(store.tokens, store.order, SIZE, DEPTH)
    draw = np.random.default_rng(2)
    for at in draw.integers(100, len(store.tokens) - 100, 30).tolist():
        context = store.tokens[at : at + int(draw.integers(1, 4))].tolist()
        if SIZE in context:
            continue
        grown = grow(index, Limits(len(context), len(context), 1, 8, 8, 0.0), context)
        found = np.ones(len(store.tokens) - len(context), bool)
        for offset, token in enumerate(context):
            found &= store.tokens[offset : len(found) + offset] == token
        after = store.tokens[np.flatnonzero(found) + len(context)]
        counts = np.bincount(after[after != SIZE])
        assert [counts[token] for token in grown.tokens[:1]] == ([counts.max()] if len(counts) else [])
        assert all(grown.matches[n] == len(context) and counts[grown.tokens[n]] for n in range(len(grown.tokens)))
