"""What the target saw of each text, kept: int8 rows with a scale each, on the disk or in a GPU's memory, read in every
epoch but the first.

A text that is not kept is read anew by the target and rounded in the same way, so what a head learns does not depend on
what was kept, nor on where an earlier process ended.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from specdec.cache import KVPool
from specdec.models.base import CausalLM, Wants
from specdec.models.batch import RaggedBatch, SequenceRows
from specdec.places import write, writing
from specdec.training.batches import Batch
from specdec.training.teacher import Seen, Teacher

Watch = Callable[[Sequence[int]], Tensor]
"""Token ids of a text → float32 [S, k, H], the target's hidden states at k boundaries."""
Normalize = Callable[[Tensor], Tensor]
"""Final states, float32 [S, H] → float32 [S], see `Seen.normalizer`."""


def watching(model: CausalLM, boundaries: Sequence[int]) -> Watch:
    """One pass of a model over a text, by whatever kernels run it; a boundary may be asked for twice."""
    once = tuple(sorted(set(boundaries)))
    places = [once.index(boundary) for boundary in boundaries]

    def watch(tokens: Sequence[int]) -> Tensor:
        rows = SequenceRows(tokens, torch.arange(len(tokens)), 0)
        pool = KVPool(model.kv_layout, len(tokens))
        batch = RaggedBatch.build([rows])
        found = model.run(batch, pool, Wants("argmax", once)).hidden
        assert found is not None
        return found[:, places]

    return watch


class TapStore:
    """Hidden states of texts, by their numbers.

    Args:
        folder: of its files; what other settings have left there is replaced.
        lengths: tokens of each text.
        boundaries: k, how many states a token has.
        width: H.
        most_bytes: texts from the first on are kept until there are so many.
        settings: all that the states depend on.

    Raises:
        UnwritableError: if there is no room.
    """

    def __init__(
        self, folder: Path, lengths: Sequence[int], boundaries: int, width: int, most_bytes: int, settings: Any
    ) -> None:
        self._ends, self._kept, tokens = _room(lengths, boundaries, width, most_bytes)
        self._shape = tokens, boundaries, width
        manifest, told = folder / "taps.json", json.dumps([settings, list(self._shape)])
        if not manifest.exists() or manifest.read_text(encoding="utf-8") != told:
            for name in ("rows", "scales", "norms", "done"):
                (folder / f"taps.{name}").unlink(missing_ok=True)
            write(manifest, told)
        with writing(folder):
            self._rows = _mapped(folder / "taps.rows", np.int8, self._shape)
            self._scales = _mapped(folder / "taps.scales", np.float32, (*self._shape[:2], 1))
            self._norms = _mapped(folder / "taps.norms", np.float32, self._shape[:1])
            self._done = _mapped(folder / "taps.done", np.bool_, (self._kept,))

    def states(self, number: int, tokens: Sequence[int], watch: Watch, normalize: Normalize) -> tuple[Tensor, Tensor]:
        """Rounded states of a text, float32 [S, k, H], and the normalizers of the last of them, float32 [S]: read, or
        watched and kept."""
        if number >= self._kept:
            return _seen(tokens, watch, normalize)[1]
        span = slice(int(self._ends[number]) - len(tokens), int(self._ends[number]))
        if not self._done[number]:
            (self._rows[span], self._scales[span]), (_, norms) = _seen(tokens, watch, normalize)
            self._norms[span] = norms.numpy(force=True)
            self._done[number] = True  # last: a text that is half written is written again
        rows, scales, norms = (torch.from_numpy(each[span].copy()) for each in (self._rows, self._scales, self._norms))
        return _exact(rows, scales), norms


class StoredTeacher(Teacher):
    """A teacher that looks up what it saw.

    Args:
        module: for the rows of the output.
        taps: boundaries that the head reads.
        store: of k + 1 boundaries, the state after the last norm at the end.
        watch: gives these.
    """

    def __init__(self, module: PreTrainedModel, taps: tuple[int, ...], store: TapStore, watch: Watch) -> None:
        super().__init__(module, taps)
        self._store, self._watch = store, watch

    @torch.no_grad()
    def see(self, batch: Batch) -> Seen:
        """See `Teacher.see`. What stands behind a text's end is 0."""
        states, norms = [], []
        texts = (batch.numbers.tolist(), batch.tokens.tolist(), batch.lengths.tolist())
        for number, tokens, length in zip(*texts, strict=True):
            found, norm = self._store.states(number, tokens[:length], self._watch, self._normalize)
            states.append(F.pad(found, (0, 0, 0, 0, 0, len(tokens) - length)))
            norms.append(F.pad(norm, (0, len(tokens) - length)))
        device = batch.tokens.device
        stacked = torch.stack(states).to(device, self._output.dtype)
        return Seen(stacked[:, :, :-1], stacked[:, :, -1], torch.stack(norms).to(device))

    def _normalize(self, final: Tensor) -> Tensor:
        return self.normalizer(final.to(self._output.device, self._output.dtype)).cpu()


class ResidentTeacher(Teacher):
    """A teacher that keeps what it saw in its device's memory, rounded as a `TapStore` rounds it. A text is seen in the
    batch in which it first comes, and its last bits follow from that batch's shape.

    Args:
        module: on its device, in its dtype.
        taps: boundaries that the head reads.
        lengths: tokens of each text, by its number.
        most_bytes: texts from the first on are kept until there are so many; others are seen anew each time.
    """

    def __init__(self, module: PreTrainedModel, taps: tuple[int, ...], lengths: Sequence[int], most_bytes: int) -> None:
        super().__init__(module, taps)
        boundaries, (width, device) = len(taps) + 1, (self._output.shape[1], self._output.device)
        ends, self._kept, tokens = _room(lengths, boundaries, width, most_bytes)
        self._starts = torch.from_numpy(ends - np.asarray(lengths))
        self._done = torch.zeros(len(lengths), dtype=torch.bool)
        self._rows = torch.empty(tokens, boundaries, width, dtype=torch.int8, device=device)
        self._scales = torch.empty(tokens, boundaries, 1, device=device)
        self._norms = torch.empty(tokens, device=device)

    @torch.no_grad()
    def see(self, batch: Batch) -> Seen:
        """See `Teacher.see`. What stands behind a text's end is 0; the normalizers are those of the answers."""
        numbers = batch.numbers.cpu()
        there = torch.arange(batch.tokens.shape[1], device=batch.tokens.device) < batch.lengths[:, None]
        if bool(self._done[numbers].all()):
            places = self._starts[numbers].to(there.device)[:, None] + there.cumsum(1) - 1
            places = torch.where(there, places, 0)
            return self._given(self._rows[places], self._scales[places], self._norms[places], there)
        seen = super().see(batch)
        rows, scales = _rounded(torch.cat([seen.taps, seen.final[:, :, None]], 2).float())
        answers = there & (torch.arange(there.shape[1], device=there.device) >= batch.starts[:, None])
        norms = torch.zeros(there.shape, device=there.device)
        norms[answers] = self.normalizer(_exact(rows[:, :, -1], scales[:, :, -1]).to(self._output.dtype)[answers])
        for row, (number, length) in enumerate(zip(numbers.tolist(), batch.lengths.tolist(), strict=True)):
            if number < self._kept:
                span = slice(int(self._starts[number]), int(self._starts[number]) + length)
                held = (self._rows, self._scales, self._norms)
                for kept, found in zip(held, (rows, scales, norms), strict=True):
                    kept[span] = found[row, :length]
                self._done[number] = True
        return self._given(rows, scales, norms, there)

    def _given(self, rows: Tensor, scales: Tensor, norms: Tensor, there: Tensor) -> Seen:
        states = (_exact(rows, scales) * there[..., None, None]).to(self._output.dtype)
        return Seen(states[:, :, :-1], states[:, :, -1], norms)


def _room(lengths: Sequence[int], boundaries: int, width: int, most_bytes: int) -> tuple[Any, int, int]:
    """Where each text ends among all tokens, int64; how many texts are kept, from the first on; and their tokens."""
    ends = np.cumsum(lengths, dtype=np.int64)
    each = boundaries * (width + 4) + 4
    kept = int(np.searchsorted(ends, most_bytes // each, side="right"))
    return ends, kept, int(ends[kept - 1]) if kept else 0


def _seen(tokens: Sequence[int], watch: Watch, normalize: Normalize) -> tuple[tuple[Any, Any], tuple[Tensor, Tensor]]:
    """A text's rounded states as they are kept, and as they are used, with their normalizers."""
    rows, scales = _rounded(watch(tokens).cpu())
    exact = _exact(rows, scales)
    return (rows.numpy(), scales.numpy()), (exact, normalize(exact[:, -1]))


def _rounded(states: Tensor) -> tuple[Tensor, Tensor]:
    """Of float32 [..., H] int8 rows and float32 scales [..., 1]: a row's largest number is 127 times its scale."""
    scales = states.abs().amax(-1, keepdim=True) / 127
    return (states / scales.clamp(min=1e-30)).round().to(torch.int8), scales


def _exact(rows: Tensor, scales: Tensor) -> Tensor:
    return rows * scales


def _mapped(path: Path, dtype: Any, shape: tuple[int, ...]) -> Any:
    """A file's numbers, 0 where nothing was written; it takes no room before."""
    if not all(shape):
        return np.zeros(shape, dtype)
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    with path.open("ab") as file:
        file.truncate(size)
    return np.memmap(path, dtype, "r+", shape=shape)
