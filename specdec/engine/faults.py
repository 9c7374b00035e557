"""A drafter's errors end here: a fault costs the requests in question their drafts, and the log one warning."""

from __future__ import annotations

import logging

from specdec.drafters.base import Drafter, DraftRequest
from specdec.errors import SpecdecError
from specdec.verify.tree import DraftTree

logger = logging.getLogger("specdec")
MASS_TOLERANCE = 1e-3
"""A row of q is a softmax in float32: its sum is off by less than the vocabulary's size times 6e-8."""


class Faults(dict[str, str]):
    """Drafter → its first error."""

    def note(self, drafter: Drafter, when: str, error: Exception) -> None:
        """Logs the first error of each drafter."""
        if drafter.name in self:
            return
        self[drafter.name] = f"{when}: {type(error).__name__}: {error}"
        logger.warning(
            "Drafter %r failed in %s and goes without a draft there (%s: %s). Texts do not change. Later failures are "
            "not logged.", drafter.name, when, type(error).__name__, error, exc_info=error,
        )  # fmt: skip


class Contained:
    """An exception inside the block is noted, and the step goes on.

    Args:
        faults: takes it.
        drafter: whose it is.
        when: what it was asked to do.
        quiet: leave it out of the notes, since it will be asked again.
    """

    def __init__(self, faults: Faults, drafter: Drafter, when: str, quiet: bool = False) -> None:
        self._faults, self._drafter, self._when, self._quiet = faults, drafter, when, quiet
        self.failed = False

    def __enter__(self) -> Contained:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        self.failed = isinstance(error, Exception)
        if isinstance(error, Exception) and not self._quiet:
            self._faults.note(self._drafter, self._when, error)
        return self.failed


def check(tree: DraftTree, drafter: Drafter, request: DraftRequest) -> None:
    """Raises SpecdecError for a tree that cannot be verified: slots were reserved for no more than was asked for."""
    max_nodes = drafter.max_nodes(request.max_depth)
    if len(tree) > max_nodes or tree.depth > request.max_depth:
        raise SpecdecError(
            f"{len(tree)} nodes of depth {tree.depth}; asked for were at most {max_nodes} nodes (its own max_nodes) of "
            f"depth {request.max_depth}"
        )
    size = request.transform.vocab_size
    if bad := [token for token in tree.tokens if not 0 <= token < size]:
        raise SpecdecError(f"token id {bad[0]} is outside the vocabulary of {size}")
    if tree.q is not None and drafter.deterministic:
        raise SpecdecError("a q from a drafter that says deterministic = True")
    if tree.q is not None and len(tree):
        masses = tree.q.sum(-1)
        if tree.q.shape[-1] != size or not bool(((masses - 1).abs() < MASS_TOLERANCE).all()):
            raise SpecdecError(
                f"q {tuple(tree.q.shape)} has rows of mass {masses.tolist()}, not {size} columns of mass 1"
            )
