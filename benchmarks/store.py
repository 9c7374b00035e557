"""What a store costs: opening it, putting it in order, and a draft from it.

python -m benchmarks.store [FILE] [--contexts 400] [--repeats 5]

FILE is a store of `specdec store build`; none takes the one that ships. Contexts are pieces of its own texts, half of
them with a strange token in between; each is asked for a first time, and then again.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import numpy as np

from specdec.kernels.retrieval import Grown, Index, Limits, grow
from specdec.measure.environment import machine
from specdec.stores import STOCK, Store, read
from specdec.stores.order import DEPTH, suffix_order

LIMITS = Limits(min_match=1, max_match=16, max_depth=10, max_nodes=10, branches=4, floor=0.08)
"""The drafter's defaults."""


def contexts(store: Store, count: int) -> list[list[int]]:
    """The tokens before random places of the store, and those before places with a strange token in between."""
    draw = np.random.default_rng(0)
    found = [store.tokens[max(0, at - 16) : at].tolist() for at in draw.integers(1, len(store.tokens), count).tolist()]
    return [[*one[:-2], 0, *one[-2:]] if number % 2 else one for number, one in enumerate(found)]


def lookup_seconds(index: Index, asked: Sequence[list[int]], repeats: int) -> tuple[float, float]:
    """Medians over contexts: of the first time, and of the fastest of the others."""
    times = [[_seconds(lambda one=one: grow(index, LIMITS, one)) for _ in range(1 + repeats)] for one in asked]  # type: ignore[misc]
    return median(each[0] for each in times), median(min(each[1:]) for each in times)


def _seconds(run: Callable[[], Grown]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, nargs="?", default=STOCK)
    parser.add_argument("--contexts", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    began = time.perf_counter()
    store = read(options.file)
    opened, began_cpu = time.perf_counter() - began, time.process_time()
    order = suffix_order(store.tokens)
    sorted_ = time.process_time() - began_cpu
    index = Index(store.tokens, order if store.order is None else store.order, store.vocabulary.size, DEPTH)
    first, again = lookup_seconds(index, contexts(store, options.contexts), options.repeats)
    print(machine())
    print(f"{store.num_tokens} tokens, {options.file.stat().st_size / store.num_tokens:.1f} bytes a token in the file")
    print(f"opened and checked in {opened:.2f} s; put in order in {sorted_:.1f} s of one core")
    print(f"a draft takes {1e6 * first:.0f} µs the first time and {1e6 * again:.0f} µs later, medians")


if __name__ == "__main__":
    main()
