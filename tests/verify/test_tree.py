"""Draft trees against a naive oracle: the ancestor relation as a boolean matrix."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from specdec.errors import ConfigError, SpecdecError
from specdec.verify.tree import KINDS, ROOT, DraftTree, TreeShape

FORK = DraftTree((10, 11, 12, 13, 14), (ROOT, ROOT, 0, 0, 2))


@st.composite
def shapes(draw: st.DrawFn) -> tuple[int, ...]:
    return tuple(draw(st.integers(ROOT, node - 1)) for node in range(draw(st.integers(0, 12))))


def ancestors(parents: tuple[int, ...]) -> list[list[int]]:
    """Every node's ancestors and itself in ascending order, by closing the parent relation under composition."""
    size = len(parents)
    reach = torch.eye(size, dtype=torch.int64)
    for node, parent in enumerate(parents):
        if parent != ROOT:
            reach[node, parent] = 1
    for _ in range(size):
        reach = (reach @ reach > 0).long()
    return [row.nonzero().flatten().tolist() for row in reach]


@pytest.mark.parametrize(
    ("tokens", "parents", "message"),
    [
        ((1, 2), (ROOT,), "2 tokens but 1 parents"),
        ((1,), (), "1 tokens but 0 parents"),
        ((1,), (0,), "node 0 has parent 0"),
        ((1, 2), (1, ROOT), "node 0 has parent 1"),
        ((1, 2), (ROOT, 1), "node 1 has parent 1"),
        ((1, 2), (ROOT, -2), "node 1 has parent -2"),
    ],
)
def test_parents_must_come_before_their_children(
    tokens: tuple[int, ...], parents: tuple[int, ...], message: str
) -> None:
    with pytest.raises(SpecdecError, match=message):
        DraftTree(tokens, parents)


@pytest.mark.parametrize("rows", [0, 2, 4, 5])
def test_q_must_have_a_row_for_the_children_of_each_node_that_has_some(rows: int) -> None:
    with pytest.raises(SpecdecError, match=rf"3 nodes have children .* but q has {rows} rows"):
        DraftTree(FORK.tokens, FORK.parents, torch.zeros(rows, 5))


def test_siblings_share_the_row_that_they_were_drawn_from() -> None:
    q = torch.rand(3, 5)
    tree = DraftTree(FORK.tokens, FORK.parents, q)
    for node, row in ((ROOT, 0), (0, 1), (2, 2)):
        below = tree.q_below(node)
        assert below is not None
        assert torch.equal(below, q[row])
    assert [tree.q_below(node) for node in (1, 3, 4)] == [None] * 3
    assert FORK.q_below(ROOT) is None


def test_a_fork_by_hand() -> None:
    assert len(FORK) == 5
    assert FORK.depths == (0, 0, 1, 1, 2)
    assert FORK.depth == 3
    assert not FORK.is_chain
    assert [FORK.children(node) for node in (ROOT, *range(5))] == [[0, 1], [2, 3], [], [4], [], []]
    assert [FORK.path(node) for node in (ROOT, 1, 3, 4)] == [(), (1,), (0, 3), (0, 2, 4)]
    assert [FORK.prefix(node) for node in (ROOT, 1, 3, 4)] == [(), (11,), (10, 13), (10, 12, 14)]


def test_the_empty_tree_is_a_chain_of_depth_zero() -> None:
    for tree in (DraftTree(), DraftTree.chain([]), DraftTree.from_chains([]), DraftTree.from_chains([[], []])):
        assert (tree.tokens, tree.parents, tree.depths, tree.depth, len(tree)) == ((), (), (), 0, 0)
        assert tree.is_chain
        assert tree.children(ROOT) == []


def test_a_chain_takes_any_iterable_and_keeps_q() -> None:
    q = torch.rand(3, 5)
    tree = DraftTree.chain(iter([4, 4, 2]), q)
    assert (tree.tokens, tree.parents, tree.depth) == ((4, 4, 2), (ROOT, 0, 1), 3)
    assert tree.is_chain
    assert tree.q is q


def test_chains_share_their_common_prefixes_and_earlier_chains_come_first() -> None:
    tree = DraftTree.from_chains([[1, 2, 3], [1, 2, 4], [5], [1, 6], [1, 2], [5, 2]])
    assert tree.tokens == (1, 2, 3, 4, 5, 6, 2)
    assert tree.parents == (ROOT, 0, 1, 1, ROOT, 0, 4)
    assert tree.q is None
    assert DraftTree.from_chains([[7, 8]]).is_chain


@given(st.lists(st.lists(st.integers(0, 2), max_size=4), max_size=5))
def test_a_trie_holds_each_prefix_once_in_the_order_of_its_first_use(chains: list[list[int]]) -> None:
    tree = DraftTree.from_chains(chains)
    prefixes = [tuple(chain[: length + 1]) for chain in chains for length in range(len(chain))]
    assert [tree.prefix(node) for node in range(len(tree))] == list(dict.fromkeys(prefixes))


@given(shapes())
def test_depths_paths_and_children_agree_with_the_ancestor_relation(parents: tuple[int, ...]) -> None:
    tokens = tuple(100 + node for node in range(len(parents)))
    tree, above = DraftTree(tokens, parents), ancestors(parents)
    assert [list(tree.path(node)) for node in range(len(tree))] == above
    assert [tree.prefix(node) for node in range(len(tree))] == [tuple(100 + n for n in nodes) for nodes in above]
    assert tree.depths == tuple(len(nodes) - 1 for nodes in above)
    assert tree.depth == max(map(len, above), default=0)
    assert tree.is_chain == all(len(nodes) == node + 1 for node, nodes in enumerate(above))
    for node in range(len(tree)):
        assert tree.children(node) == [n for n, nodes in enumerate(above) if nodes[-2:-1] == [node]]
    assert tree.children(ROOT) == [n for n, nodes in enumerate(above) if nodes == [n]]


@given(shapes(), st.integers(0, 6), st.lists(st.integers(0, 2), min_size=12, max_size=12))
def test_truncation_keeps_the_shallow_nodes_whatever_their_tokens(
    parents: tuple[int, ...], depth: int, other_tokens: list[int]
) -> None:
    size = len(parents)
    inner = sorted(set(parents))
    q = torch.tensor(inner, dtype=torch.float32)[:, None].expand(len(inner), 3)  # each row names the node above
    tree = DraftTree(tuple(range(size)), parents, q)  # each token names its node
    short = tree.truncated(depth)
    kept = [node for node, nodes in enumerate(ancestors(parents)) if len(nodes) <= depth]
    assert list(short.tokens) == kept
    assert [ROOT if p == ROOT else short.tokens[p] for p in short.parents] == [parents[node] for node in kept]
    for node, old in enumerate(kept):
        below = short.q_below(short.parents[node])
        assert below is not None
        assert below.tolist() == [parents[old]] * 3
    relabelled = DraftTree(tuple(other_tokens[:size]), parents).truncated(depth)
    assert (relabelled.parents, relabelled.q) == (short.parents, None)
    assert relabelled.tokens == tuple(other_tokens[node] for node in kept)


@given(shapes(), st.sets(st.integers(0, 11)))
def test_pruning_drops_nodes_and_all_below_them(parents: tuple[int, ...], dropped: set[int]) -> None:
    numbers = tuple(range(len(parents)))  # each token, and each kind, names its node
    tree = DraftTree(numbers, parents, kinds=numbers, chances=tuple(number / 64 for number in numbers))
    short = tree.pruned(dropped)
    kept = [node for node, nodes in enumerate(ancestors(parents)) if not dropped & set(nodes)]
    assert list(short.tokens) == kept
    assert [ROOT if p == ROOT else short.tokens[p] for p in short.parents] == [parents[node] for node in kept]
    assert list(short.kinds) == kept
    assert [64 * chance for chance in short.chances] == kept


def test_kinds_of_a_shape_are_its_depths_and_ranks() -> None:
    """The root has children 0, 1 and 4; node 0 has 2 and 3; node 3 has 5."""
    shape = TreeShape((ROOT, ROOT, 0, 0, ROOT, 3))
    assert [divmod(kind, 32) for kind in shape.kinds] == [(0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (2, 0)]
    assert DraftTree(tuple(range(6)), shape.parents).node_kinds == shape.kinds
    assert max(TreeShape.chain(40).kinds) < KINDS
    assert max(TreeShape((ROOT,) * 40).kinds) < 32


def test_a_tree_keeps_its_own_kinds() -> None:
    tree = DraftTree((7, 8, 9), (ROOT, 0, ROOT), kinds=(5, 6, 7))
    assert tree.node_kinds == (5, 6, 7)
    assert DraftTree((7, 8, 9), (ROOT, 0, ROOT)).of([0, 2]).node_kinds == (0, 1)
    with pytest.raises(SpecdecError, match="3 tokens but 2 kinds"):
        DraftTree((7, 8, 9), (ROOT, 0, ROOT), kinds=(5, 6))


def test_a_draft_that_was_drawn_is_not_pruned() -> None:
    with pytest.raises(SpecdecError, match="cannot be dropped"):
        DraftTree.chain([1, 2], torch.zeros(2, 5)).pruned([1])


@given(shapes(), st.integers(0, 6))
def test_a_tree_and_its_shape_agree(parents: tuple[int, ...], depth: int) -> None:
    tree, shape = DraftTree(tuple(range(len(parents))), parents), TreeShape(parents)
    assert tree.shape == shape
    assert (len(shape), shape.depths, shape.depth, shape.is_chain) == (
        len(tree),
        tree.depths,
        tree.depth,
        tree.is_chain,
    )
    children = {node: tree.children(node) for node in range(ROOT, len(tree))}
    assert {node: shape.children(node) for node in children} == children
    assert shape.inner == tuple(node for node in children if children[node])
    assert shape.widest == max(map(len, children.values()))
    assert shape.truncated(depth) == tree.truncated(depth).shape


def test_shapes_by_hand() -> None:
    assert TreeShape.chain(3).parents == (ROOT, 0, 1)
    assert TreeShape.fork(3, 2).parents == (ROOT, ROOT, ROOT, 0, 1, 2)
    assert TreeShape.fork(2, 3).parents == (ROOT, ROOT, 0, 1, 2, 3)
    assert TreeShape.fork(1, 4) == TreeShape.chain(4)
    assert TreeShape.fork(3, 0) == TreeShape.chain(0) == TreeShape.choices([]) == TreeShape()
    assert [TreeShape.fork(3, 2).widest, TreeShape.chain(2).widest, TreeShape().widest] == [3, 1, 0]
    assert TreeShape((ROOT, 0, 0)).widest == 2


def test_choices_are_numbered_level_by_level_with_what_is_on_their_way() -> None:
    paths = [(1, 0), (0, 0, 0), (0, 1), (2,)]
    assert TreeShape.choices(paths).parents == (ROOT, ROOT, ROOT, 0, 0, 1, 3)
    assert TreeShape.choices([[0], [0, 0], [1], [1, 0]]) == TreeShape.fork(2, 2)


def test_one_path_in_place_of_a_list_of_paths_is_refused_in_a_line() -> None:
    with pytest.raises(ConfigError, match=r"\[0, 0\] is not a list of paths. Give each path as a list of ranks"):
        TreeShape.choices([0, 0])  # type: ignore[list-item]


@pytest.mark.parametrize("paths", [[(1,)], [(0,), (2,)], [(0, 1)], [(-1,)]])
def test_choices_without_the_likelier_sibling_are_refused(paths: list[tuple[int, ...]]) -> None:
    with pytest.raises(ConfigError, match="is given without"):
        TreeShape.choices(paths)


def test_a_shape_whose_parents_come_late_is_refused() -> None:
    with pytest.raises(SpecdecError, match="node 0 has parent 1"):
        TreeShape((1, ROOT))
