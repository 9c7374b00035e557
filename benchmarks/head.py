"""What a draft of a trained head costs beside the floor: the time in which its weights can be read.

python -m benchmarks.head [FOLDER] [--kind eagle3] [--dtype bfloat16] [--draft-vocab-size 8192] [--weights int8]

Texts of the embedded model, greedy, at batch 1; plain decoding, drafting and reading take turns. Without a folder the
head has random weights and the shape of the one that ships: it costs the same. Trees are as large as they may be; of a
head that drafts token by token a level is one step. Seconds are of one thread's work or of
the clock (--clock), medians over steps; a machine that does other work beside it needs the former, OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

from specdec import SamplingParams, SpeculativeGenerator
from specdec.drafters.blocks import BlockDrafts
from specdec.drafters.head import HeadDrafter
from specdec.drafters.pairs import PairDrafts
from specdec.heads.base import Head
from specdec.heads.config import HeadConfig
from specdec.heads.files import ARCHITECTURES
from specdec.heads.native import NativeBlock
from specdec.heads.nativepairs import NativePairs
from specdec.kernels.attention.columns import depths
from specdec.kernels.cpu.library import library
from specdec.kernels.cpu.threads import num_threads
from specdec.kernels.markov import Grown
from specdec.measure.environment import machine
from specdec.models.loading import load

PROMPT = [{"role": "user", "content": "Write a story about a fox and a hen."}]
SIZES: dict[str, Any] = {
    "hidden_size": 576, "target_hidden_size": 576, "intermediate_size": 1536, "num_heads": 9, "num_kv_heads": 3,
    "head_dim": 64, "vocab_size": 49152, "target_layers": 30, "taps": (2, 15, 27), "rope_theta": 100000.0,
    "fc_norm": True,
}  # fmt: skip
SMALL: dict[str, dict[str, Any]] = {
    "block": SIZES | {"num_layers": 2, "block_size": 6, "causal": True, "markov_rank": 64, "confidence": True},
    "eagle3": SIZES | {"num_layers": 1, "norm_output": True},
}
CACHE_BYTES = 280 << 20
"""More than any cache holds: read before a head's weights are, as the target's pass does."""


class Clock:
    """Times calls.

    Args:
        now: gives seconds.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self.seconds: dict[str, list[float]] = {}

    def watch(self, owner: Any, name: str, note: Callable[[Any], object] = lambda result: None) -> None:
        """Times every call of a method from here on; `note` is given what it returns."""
        call, found = getattr(owner, name), self.seconds.setdefault(name, [])

        def timed(*given: Any, **options: Any) -> Any:
            began = self.now()
            result = call(*given, **options)
            found.append(self.now() - began)
            note(result)
            return result

        setattr(owner, name, timed)


def random_head(kind: str, draft_vocab_size: int) -> Head:
    """Of the shape that ships."""
    config = HeadConfig(kind, draft_vocab_size=draft_vocab_size, **SMALL[kind])
    head = ARCHITECTURES[kind](config, torch.arange(draft_vocab_size))
    torch.manual_seed(0)
    for weight in head.parameters():
        torch.nn.init.normal_(weight, float(weight.dim() == 1), 0.1 if weight.dim() == 1 else weight.shape[-1] ** -0.5)
    return head


def reading(clock: Clock, size: int, times: int) -> list[float]:
    """Seconds to read so many bytes that are in no cache."""
    kernels = library()
    assert kernels is not None, "the floor is measured on the native kernels"
    weights, rest = (torch.ones(count, dtype=torch.uint8) for count in (size, CACHE_BYTES))
    found: list[float] = []
    for _ in range(times):
        kernels.read(rest.data_ptr(), CACHE_BYTES, num_threads())
        began = clock.now()
        kernels.read(weights.data_ptr(), size, num_threads())
        found.append(clock.now() - began)
    return found


def watched(clock: Clock, drafter: HeadDrafter) -> tuple[NativeBlock | NativePairs, list[int]]:
    """Times the parts of every draft. Returns the head at work, and a list that is given the levels of every draft that
    it grows by itself."""
    drafts = drafter.drafts
    assert isinstance(drafts, BlockDrafts | PairDrafts)
    run, levels = drafts.run, list[int]()
    parts: list[tuple[Any, str]] = [(drafter, "propose"), (drafter, "observe")]
    if isinstance(run, NativeBlock):
        parts += [(run, "draft"), (run.term, "grow")]
    else:
        assert isinstance(run, NativePairs), "the head does not run natively beside this target"
        clock.watch(run, "grow", lambda trees: levels.extend(map(levels_of, trees)))
        parts.append((run, "fuse"))
    for owner, name in parts:
        clock.watch(owner, name)
    return run, levels


def levels_of(tree: Grown) -> int:
    """Of a tree that grew."""
    return max(depths(tree.parents, len(tree.parents)), default=-1) + 1


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--kind", default="block", choices=SMALL, help="of the random head")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--tokens", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--draft-vocab-size", type=int, default=8192)
    parser.add_argument("--weights")
    parser.add_argument("--clock", action="store_true", help="time of the clock, not of one thread")
    options = parser.parse_args()
    clock = Clock(time.perf_counter if options.clock else time.thread_time)
    head = options.folder or random_head(options.kind, options.draft_vocab_size)
    drafter = HeadDrafter(head, weights=options.weights, floor=0.0, deepen=0.0)
    generator = SpeculativeGenerator(load(dtype=options.dtype), drafter)
    plain = generator.with_drafter("none")
    generator.generate([PROMPT], SamplingParams(max_tokens=8))
    run, levels = watched(clock, drafter)
    clock.watch(generator.engine.model, "run")
    floors: list[float] = []
    passes: list[float] = []
    for _ in range(options.repeats):
        generator.generate([PROMPT], SamplingParams(max_tokens=options.tokens))
        floors += reading(clock, run.num_bytes, 10)
        clock.seconds["run"].clear()
        plain.generate([PROMPT], SamplingParams(max_tokens=options.tokens))
        passes += clock.seconds["run"][1:]
    tell(clock, run, levels, median(floors), median(passes))


def tell(clock: Clock, run: NativeBlock | NativePairs, levels: list[int], floor: float, target: float) -> None:
    """Prints what was measured, in ms, beside the floor of a pass of the head and a pass of the target."""
    print(machine())
    print(f"{run.num_bytes / 1e6:.1f} MB of weights, read in {1e3 * floor:.2f} ms; a plain pass {1e3 * target:.2f} ms")
    took = {name: median(seconds) for name, seconds in clock.seconds.items() if name != "run"}
    if levels:
        took["a level, all in"] = sum(clock.seconds["propose"]) / sum(levels)
        print(f"{sum(levels) / len(levels):.1f} levels a draft")
    for name, seconds in ({"a step's draft": took["propose"] + took["observe"]} | took).items():
        print(f"{name}: {1e3 * seconds:.2f} ms, {seconds / floor:.2f} × floor, {seconds / target:.3f} of a plain pass")


if __name__ == "__main__":
    main()
