"""A drafter is asked for drafts, and what it gives is checked."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from specdec.drafters.base import Drafter, DraftRequest
from specdec.engine.faults import Contained, Faults, check_tree, check_trees
from specdec.engine.limits import MAX_NODES, Bounds
from specdec.engine.scheduled import Scheduled
from specdec.errors import SpecdecError
from specdec.foreign import STOPS
from specdec.verify.tree import DraftTree


class Asking:
    """Asks drafters, and takes of their answers what can be verified.

    Args:
        faults: takes their errors.
        bounds: what each drafter may return, by its name.
        device: where the target's logits are.
    """

    def __init__(self, faults: Faults, bounds: Mapping[str, Bounds], device: torch.device) -> None:
        self._faults, self._bounds, self._device = faults, bounds, device

    def ask(self, drafter: Drafter, requests: tuple[DraftRequest, ...]) -> list[DraftTree]:
        """A drafter's trees. If it raises for all together it is asked for one after the other, so that only those
        requests go without for which it does raise."""
        trees: list[object] = []
        with Contained(self._faults, drafter.name, "propose", quiet=len(requests) > 1) as contained:
            trees = check_trees(drafter.propose(requests), requests)
        if contained.failed:
            return [self.ask(drafter, (one,))[0] for one in requests] if len(requests) > 1 else [DraftTree()]
        return [self._checked(drafter, one, tree) for one, tree in zip(requests, trees, strict=True)]

    def extend(self, drafter: Drafter, request: DraftRequest, tree: DraftTree) -> DraftTree:
        """A draft with what a drafter adds to it (`Drafter.extend`), or the draft itself; it may be too large."""
        with Contained(self._faults, drafter.name, "extend"):
            [larger] = check_trees(drafter.extend((request,), (tree,)), (request,))
            checked = check_tree(larger, request, MAX_NODES, True, self._device)
            if checked.tokens[: len(tree)] != tree.tokens or checked.parents[: len(tree)] != tree.parents:
                raise SpecdecError("it changed the draft that it was to extend; give its nodes first, as they are")
            return checked
        return tree

    def _checked(self, drafter: Drafter, request: DraftRequest, tree: object) -> DraftTree:
        """The tree, or an empty one if it cannot be verified: slots were reserved for no more than was asked for."""
        with Contained(self._faults, drafter.name, "propose"):
            max_nodes = self._bounds[drafter.name].nodes(request.max_depth)
            return check_tree(tree, request, max_nodes, drafter.deterministic, self._device)
        return DraftTree()


def allowed(part: Scheduled, tree: DraftTree) -> DraftTree:
    """A draft without what the request's constraint forbids: one that is known before anything is drawn, or that
    the text does not depend on. This is exact: p is zero there. A constraint that raises is the request's own affair,
    and will end it when its logits are read; here it costs the draft."""
    try:
        dropped = part.request.transform.forbidden(tree.tokens, tree.parents)
    except STOPS:
        raise
    except BaseException:
        return DraftTree()
    return tree.pruned(dropped) if dropped else tree
