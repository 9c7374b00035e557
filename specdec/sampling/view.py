"""What a drafter sees of a request's transform: all of it but what would change it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor

from specdec.sampling.constraints import Constraint
from specdec.sampling.params import SamplingParams
from specdec.sampling.transform import LogitsTransform


class TransformView:
    """A request's transform, to be read: p depends on it, so only the engine commits tokens to it.

    Args:
        transform: see `LogitsTransform` for the methods.
        confined: whether scores keep to the constraint.
    """

    __slots__ = ("_confined", "_transform")

    def __init__(self, transform: LogitsTransform, confined: bool = True) -> None:
        self._transform, self._confined = transform, confined

    @property
    def params(self) -> SamplingParams:
        """The request's settings."""
        return self._transform.params

    @property
    def vocab_size(self) -> int:
        """V."""
        return self._transform.vocab_size

    @property
    def identity(self) -> bool:
        """Whether scores are the logits themselves, whatever the path."""
        return self.params.greedy and not self.edits

    @property
    def edits(self) -> bool:
        """Whether anything but temperature and the filters is done to logits."""
        return self._transform.edits if self._confined else self._transform.edits_unconfined

    @property
    def constraint(self) -> Constraint | None:
        """A fork of the request's constraint, after the committed tokens; the caller's own."""
        constraint = self._transform.constraint
        return None if constraint is None else constraint.fork()

    def scores(self, logits: Tensor, paths: Sequence[Sequence[int]], parents: Sequence[int] | None = None) -> Tensor:
        """See `LogitsTransform.scores`."""
        return self._transform.scores(logits, paths, parents, self._confined)

    def scores_of_some(self, logits: Tensor) -> Tensor:
        """See `LogitsTransform.scores_of_some`."""
        return self._transform.scores_of_some(logits)

    def forbidden(self, tokens: Sequence[int], parents: Sequence[int]) -> list[int]:
        """See `LogitsTransform.forbidden`."""
        return self._transform.forbidden(tokens, parents)

    def require_mass(self, largest: Iterable[float]) -> None:
        """See `LogitsTransform.require_mass`."""
        self._transform.require_mass(largest)
