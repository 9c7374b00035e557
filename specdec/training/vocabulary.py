"""Which tokens a head knows: those that the target says most often, and those that a text cannot do without."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from specdec.errors import ConfigError


@dataclass(frozen=True)
class DraftVocabulary:
    """A choice of tokens.

    Args:
        ids: int64 [Vd], increasing.
        coverage: share of the counted tokens that are among them.
    """

    ids: Tensor
    coverage: float

    @classmethod
    def of(cls, counts: Tensor, size: int, forced: Sequence[int]) -> DraftVocabulary:
        """The forced tokens, then the most frequent; of equals the lowest id.

        Args:
            counts: int64 [V], how often the target said each token.
            size: Vd.
            forced: token ids that must be there.

        Raises:
            ConfigError: if they cannot be so many.
        """
        if not len(set(forced)) <= size <= len(counts):
            raise ConfigError(
                f"draft_vocab_size={size} cannot work: {len(set(forced))} tokens must be in it, and there are "
                f"{len(counts)}. Give a number between."
            )
        rank = counts.clone()
        rank[torch.tensor(sorted(set(forced)), dtype=torch.int64)] = int(counts.max()) + 1
        ids = rank.sort(descending=True, stable=True).indices[:size].sort().values
        return cls(ids, float(counts[ids].sum() / counts.sum().clamp(min=1)))


def counted(texts: Iterable[Sequence[int]], vocab_size: int) -> Tensor:
    """How often each token occurs, int64 [V]."""
    counts = torch.zeros(vocab_size, dtype=torch.int64)
    for text in texts:
        counts += torch.bincount(torch.as_tensor(text, dtype=torch.int64), minlength=vocab_size)
    return counts


def needed(tokenizer: Any, vocab_size: int) -> list[int]:
    """Special tokens, and those that are digits or line ends alone: rare ones decide over whole texts."""
    special = [token for token in tokenizer.all_special_ids if token < vocab_size]
    words = tokenizer.batch_decode([[token] for token in range(min(vocab_size, len(tokenizer)))])
    plain = [token for token, word in enumerate(words) if word and (word.strip().isdecimal() or set(word) == {"\n"})]
    return sorted({*special, *plain})
