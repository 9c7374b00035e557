"""Texts → batches: which texts stand together, and where blocks begin in them. All of it follows from a seed and the
number of the step, so that a run goes on where it ended."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from specdec.checks import settle, whole
from specdec.errors import ConfigError

ROUND = 32
"""Lengths of batches are multiples of it: fewer shapes, so that a GPU's memory is not cut to pieces."""
BUCKET = 16
"""Batches among which texts are sorted by length."""


class Texts:
    """Prompts with their answers, as ids in one row.

    >>> texts = Texts([([5, 6], [7, 8, 9])])
    >>> texts[0], texts.starts.tolist(), texts.num_answer_tokens
    (tensor([5, 6, 7, 8, 9], dtype=torch.int32), [2], 3)

    Args:
        pairs: prompts and answers.
        first: number of the first text, by which what is kept of it is found.
    """

    def __init__(self, pairs: Iterable[tuple[Sequence[int], Sequence[int]]], first: int = 0) -> None:
        ids, lengths, starts = [], [], []
        for prompt, answer in pairs:
            ids.append(torch.tensor([*prompt, *answer], dtype=torch.int32))
            lengths.append(len(ids[-1]))
            starts.append(len(prompt))
        self._ids = torch.cat(ids) if ids else torch.empty(0, dtype=torch.int32)
        self.lengths, self.starts = torch.tensor(lengths), torch.tensor(starts)
        self._offsets = self.lengths.cumsum(0) - self.lengths
        self.numbers = torch.arange(first, first + len(lengths))

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> Tensor:
        """Token ids, int32 [length]."""
        return self._ids[self._offsets[index] : self._offsets[index] + self.lengths[index]]

    def part(self, places: Sequence[int]) -> Texts:
        """Some of them, which keep their numbers."""
        found = Texts((self[place][: self.starts[place]].tolist(), self[place][self.starts[place] :].tolist())
                      for place in places)  # fmt: skip
        found.numbers = self.numbers[list(places)]
        return found

    @property
    def num_answer_tokens(self) -> int:
        """Of all texts together."""
        return int((self.lengths - self.starts).sum())


@dataclass(frozen=True)
class Batch:
    """Some texts, and where blocks begin in them. The anchor is the last committed token: the block's row k, from 0,
    drafts the token at anchor + 1 + k.

    Args:
        tokens: int64 [B, S], 0 behind the texts' ends.
        numbers: int64 [B], which texts they are.
        starts, lengths: int64 [B], where answers begin, and where texts end.
        anchors: int64 [B, A], each a token of the answer that has another behind it.
        mask: bool [B, A], whether there is such an anchor.
    """

    tokens: Tensor
    numbers: Tensor
    starts: Tensor
    lengths: Tensor
    anchors: Tensor
    mask: Tensor

    def rows(self, drafted: int) -> Tensor:
        """bool [B, A, n]: whether there is a token for the block's row to draft."""
        drafts = self.anchors[..., None] + 1 + torch.arange(drafted, device=self.anchors.device)
        return self.mask[..., None] & (drafts < self.lengths[:, None, None])

    def part(self, number: int, count: int) -> Batch:
        """The texts number, number + count, number + 2 · count, …: one process's, or one of several in turn."""
        return self._each(lambda tensor: tensor[number::count])

    def to(self, device: torch.device | str) -> Batch:
        """On another device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        return replace(self, **{name: change(tensor) for name, tensor in vars(self).items()})


@dataclass(frozen=True)
class Batching:
    """Sizes of batches.

    Args:
        texts: B, texts of one step, of all processes together.
        anchors: A, most drafts of one text.
        max_length: S, most tokens of a text; the rest is cut off.
        seed: of the order of the texts, and of the anchors.
    """

    texts: int = 8
    anchors: int = 64
    max_length: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        settle(self, {"texts": whole(1), "anchors": whole(1), "max_length": whole(4), "seed": whole()})


class Batches:
    """The batch of every step. An epoch has every text once, in an order of its own, but for those that fill no batch.

    Raises:
        ConfigError: if there are fewer texts than a batch needs.
    """

    def __init__(self, texts: Texts, sizes: Batching) -> None:
        usable = (texts.lengths.clamp(max=sizes.max_length) - texts.starts >= 2).nonzero()[:, 0]
        self._texts, self._sizes, self._usable = texts, sizes, usable
        self.per_epoch = len(usable) // sizes.texts
        self._last: tuple[int, Tensor] = (-1, torch.empty(0))
        if not self.per_epoch:
            raise ConfigError(
                f"{len(usable)} texts have two tokens of an answer within {sizes.max_length} tokens, and a batch needs "
                f"{sizes.texts}. Make more answers, or give a smaller batch."
            )

    def __getitem__(self, step: int) -> Batch:
        epoch, place = divmod(step, self.per_epoch)
        if self._last[0] != epoch:
            self._last = (epoch, self._order(epoch))
        return batch_of(self._texts, self._last[1][place].tolist(), self._sizes, step)

    def _order(self, epoch: int) -> Tensor:
        """int64 [batches, B]: texts of like length together, batches in any order."""
        size, generator = self._sizes.texts, torch.Generator().manual_seed(_mixed(self._sizes.seed, 1, epoch))
        order = self._usable[torch.randperm(len(self._usable), generator=generator)[: self.per_epoch * size]]
        sorted_by_length = [
            bucket[self._texts.lengths[bucket].argsort(stable=True)] for bucket in torch.split(order, BUCKET * size)
        ]
        return torch.cat(sorted_by_length).view(-1, size)[torch.randperm(self.per_epoch, generator=generator)]


def batch_of(texts: Texts, chosen: Sequence[int], sizes: Batching, draw: int | None = None) -> Batch:
    """These texts.

    Args:
        texts, chosen: which.
        sizes: for the number of anchors and the longest text.
        draw: number of the draw of anchors; None takes the first ones, all of them if there is room.
    """
    starts = texts.starts[chosen]
    lengths = texts.lengths[chosen].clamp(max=sizes.max_length)
    tokens = torch.zeros(len(chosen), -int(-lengths.max() // ROUND) * ROUND, dtype=torch.int64)
    for row, index in enumerate(chosen):
        tokens[row, : lengths[row]] = texts[index][: lengths[row]]
    anchors, mask = _anchors(starts, lengths, sizes, draw)
    return Batch(tokens, texts.numbers[chosen], starts, lengths, anchors, mask)


def _anchors(starts: Tensor, lengths: Tensor, sizes: Batching, draw: int | None) -> tuple[Tensor, Tensor]:
    """Anchors [B, A], increasing in each text, and where they are any. The first token of an answer is the first: it is
    committed by the pass over the prompt, without a draft."""
    count = min(int((lengths - 1 - starts).max()), sizes.anchors)
    if draw is None:
        anchors = starts[:, None] + torch.arange(count)
        return anchors, anchors < lengths[:, None] - 1
    places = torch.arange(int(lengths.max()))
    allowed = (places >= starts[:, None]) & (places < lengths[:, None] - 1)
    luck = torch.rand(allowed.shape, generator=torch.Generator().manual_seed(_mixed(sizes.seed, 2, draw)))
    anchors = torch.where(allowed, luck, -1.0).topk(count).indices.sort().values
    return anchors, allowed.gather(1, anchors)


def _mixed(*numbers: int) -> int:
    """One seed of several numbers."""
    mixed = 0
    for number in numbers:
        mixed = (mixed * 0x5851F42D4C957F2D + number + 1) % 2**63
    return mixed
