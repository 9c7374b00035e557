"""Trees that grow on the GPU in one graph are those that grow there level by level; broken copies."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from specdec import SamplingParams
from specdec.drafters.head import HeadDrafter
from specdec.drafters.none import NoDrafter
from specdec.heads.tritonpairs import TritonPairs
from specdec.kernels.markov import Grown
from specdec.kernels.trees import triton as level_module
from specdec.models import tritontrees as tree_module
from specdec.models.batch import SequenceRows
from specdec.models.native import NativeModel
from specdec.models.pairs import TreeLimits
from specdec.testing.tiny import llama_module
from tests.drafters.headchecks import PROMPTS, engine, told
from tests.engines import outputs, run
from tests.heads import toys
from tests.heads.test_pair_runs import CASES, Bench, made
from tests.heads.test_triton_runs import bench, some_slow
from tests.kernels.gpu import DEVICE, assert_caught
from tests.models.test_triton_model import captured  # noqa: F401 - a fixture
from tests.pairheads import random_pairs

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "EAGLE-3.1": ("eagle3", {"fc_norm": True, "norm_output": True}),
    "EAGLE-1": ("eagle1", {}),
    "MTP": ("mtp", {}),
}
PARAMS = [SamplingParams(max_tokens=count) for count in (2, 5, 3)]


def drafted(kind: str, at_once: bool) -> list[Any]:
    """All drafts of three texts with depths of their own, each with the text before it."""
    target, (architecture, options) = toys.on_triton(), KINDS[kind]
    with pytest.MonkeyPatch.context() as patch:
        if not at_once:
            patch.setattr(TritonPairs, "grow", lambda self, pool, parts, states, limits: [None for _ in parts])
        drafter = HeadDrafter(random_pairs(target, architecture, **options), 4, 9, floor=0.01, deepen=0.4)
        drafts = told(drafter)
        run(engine(target, drafter), PROMPTS[:3], PARAMS)
    return [(text, tree.tokens, tree.parents, tree.chances, tree.kinds) for text, tree in drafts]


@pytest.mark.parametrize("kind", some_slow(KINDS, 0))
def test_trees_grown_in_one_graph_are_those_grown_level_by_level(kind: str) -> None:
    """To the last bit of a chance."""
    at_once, by_levels = (drafted(kind, each) for each in (True, False))
    assert at_once == by_levels
    assert len({parents for _, _, parents, _, _ in at_once}) >= 3


def grown(one: Bench, limits: list[TreeLimits], factor: float = 1.0) -> list[Grown | None]:
    """Trees behind texts of which one pair is still to be run."""
    if not one.cache.length(0):
        one.read([6, 3, 11][: len(limits)])
    parts, states = [], []
    for seq, limit in enumerate(limits):
        start = one.cache.length(seq)
        one.cache.reserve(seq, 1 + limit.nodes)
        parts.append(SequenceRows([seq + 5], one.cache.slots(seq), start, logit_rows=[0]))
        states.append(factor * one.run.fuse(one.taps[seq, start : start + 1].float()))
    trees = one.run.grow(one.pool, parts, torch.cat(states), limits)
    for seq in range(len(limits)):
        one.cache.commit(seq, 0)
    return trees


MODULES = {"TreeInputs": tree_module, "level_kernel": level_module}
SIZES = [(12, 5), (8, 2), (4, 5)]
BOUNDS = [(0.0, 0.0), (0.02, 0.0), (0.0, 0.4)]


def check_trees(module: ModuleType = tree_module) -> None:
    """Against the CPU's kernels; `module`: a copy of one of the two that make trees."""
    trees, levels = (module if hasattr(module, name) else own for name, own in MODULES.items())
    name, options = CASES["EAGLE-3.1"]
    head, shapes = made(name, **options), set()
    with torch.no_grad():
        head.norm.weight.mul_(0.75)  # less sure of itself: trees have branches
    ours, native = (Bench(head, target, 3) for target in (toys.on_triton(), NativeModel(llama_module(0))))
    with pytest.MonkeyPatch.context() as patch:
        for name in ("TreeInputs", "read_trees"):
            patch.setattr(f"specdec.models.tritonpairs.{name}", getattr(trees, name))
        patch.setattr(trees, "GrowingTrees", levels.GrowingTrees)
        for width, bounds in product((2, 3), BOUNDS):
            limits = [TreeLimits(*size, width, *bounds) for size in SIZES]
            for tree, wanted in zip(grown(ours, limits), grown(native, limits), strict=True):
                assert tree is not None
                assert wanted is not None
                assert tree[:2] == wanted[:2]
                assert tree.chances == pytest.approx(wanted.chances, rel=1e-4)
                shapes.add(tuple(tree.parents))
    assert len(shapes) >= 6


@pytest.mark.usefixtures("captured")
@pytest.mark.slow
def test_a_captured_graph_grows_the_trees_of_its_call() -> None:
    """Behind states that differ, each time as without a graph."""
    one, limits = bench(texts=2), [TreeLimits(9, 3, 3, 0.0, 0.0), TreeLimits(4, 2, 3, 0.0, 0.0)]
    found = [grown(one, limits, factor) for factor in (1, -1, 1)]
    assert isinstance(one.run, TritonPairs)
    assert len(one.run._model._trees.captured[one.pool]) == 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("specdec.models.graphs.can_capture", lambda tensor: False)
        assert found == [grown(one, limits, factor) for factor in (1, -1, 1)]
    assert found[0] != found[1]
    assert [len(tree.tokens) for tree in found[0] if tree is not None] == [9, 4]


def test_scores_that_are_no_numbers_are_told(caplog: pytest.LogCaptureFixture) -> None:
    target = toys.on_triton()
    head = random_pairs(target)
    with torch.no_grad():
        head.midlayer.mlp.down_proj.weight[0, 0] = float("nan")
    params = SamplingParams(max_tokens=2)
    wanted, given = (
        outputs(run(engine(target, drafter), PROMPTS[:1], params)) for drafter in (NoDrafter(), HeadDrafter(head, 2))
    )
    assert given == wanted
    assert "the largest logit is nan" in caplog.text


def check_equals(module: ModuleType = level_module) -> None:
    """Two levels of two rows, counted by hand: three of six nodes fit, and the last four are equally likely."""

    def there(numbers: list[Any], dtype: torch.dtype = torch.int32) -> torch.Tensor:
        return torch.tensor(numbers, dtype=dtype, device=DEVICE)

    bounds, ids = there([[0.0, 0.0]], torch.float64), there([10, 11, 12, 13], torch.int64)
    trees = module.GrowingTrees(there([3]), there([2]), bounds, there([4]), there([[7, 8, 9]]), ids, 2, 2)
    half = torch.full((2, 2), 0.5, device=DEVICE)
    rows = trees.grow(there([[1, 3]], torch.int64), half[:1])
    assert (rows.tokens.tolist(), rows.slots.tolist()) == ([11, 13], [7, 8])
    assert (rows.positions.tolist(), rows.above.tolist()) == ([4, 4], [0, 0])
    assert rows.paths[0, :, 0].tolist() == [7, 8]
    assert trees.grow(there([[2, 0], [0, 3]], torch.int64), half) is None
    [tree] = tree_module.read_trees(trees.found, 1, 1)
    assert (tree.tokens, tree.parents, tree.chances) == ([11, 13, 12], [-1, -1, 0], [0.5, 0.5, 0.5])


def test_of_equal_nodes_the_first_are_kept_and_a_broken_copy_is_caught(tmp_path: Path) -> None:
    change = ("other[None, :] < number[:, None]", "other[None, :] > number[:, None]")
    assert_caught(level_module, check_equals, [change], tmp_path)


BROKEN = {
    "paths": (level_module, "(tree * ROWS + above[:, None]) * LEVELS", "(tree * ROWS + 0 * above[:, None]) * LEVELS"),
    "states": (tree_module, "states[level.above]", "states[level.above.flip(0)]"),
    "positions": (level_module, "tl.load(lengths + tree) + LEVEL - 1", "tl.load(lengths + tree) + LEVEL - 2"),
    "floor": (level_module, "tl.load(bounds + 2 * tree), tl", "0.0 * tl.load(bounds + 2 * tree), tl"),
    "deepen": (level_module, ">= deepen", ">= 0.0 * deepen"),
    "later levels": (level_module, "tl.maximum(spare - later, 1)", "spare"),
    "depth": (level_module, "& (later >= 0)", ""),
    "parents": (tree_module, "kept[own].cumsum() - 1", "kept[own].cumsum()"),
}


@pytest.mark.parametrize("what", some_slow(BROKEN, 1))
def test_trees_are_those_of_the_cpu_and_a_broken_copy_is_caught(what: str, tmp_path: Path) -> None:
    module, right, wrong = BROKEN[what]
    assert_caught(module, check_trees, [(right, wrong)], tmp_path)
