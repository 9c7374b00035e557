"""Texts in large batches on plain torch: thousands of sequences in step, for a GPU that nothing else uses.

All sequences stand in one rectangle of keys and values, prompts padded on the left, so that every step writes one
column. There are no graphs: at thousands of rows the launches of a step cost less than its work. On a GPU single rows
attend by our kernel, since torch has none for few queries, shared key heads and a mask.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from specdec.errors import UnsupportedModelError
from specdec.kernels.attention.plan import CHAIN, AttentionPlan
from specdec.kernels.device import triton_runs
from specdec.models.llama import LlamaLayer, LlamaWeights, why_not_llama
from specdec.training.writers import Tokens, Way

NUCLEUS = 256
"""A top-p below 1 chooses among so many of the largest logits."""
PREFILL_ROWS = 1 << 14
"""Prompt rows that run at once."""
SHRINK = 32
"""Steps after which finished sequences leave the batch."""


class BatchWriter:
    """A model of the Llama family that writes many texts at once.

    Args:
        module: on its device, in its dtype; its weights are shared.
        eos: tokens that end a text.
        cells: most tokens that are cached at once, over all sequences, room for what they may become included.

    Raises:
        UnsupportedModelError: for a model of another family.
    """

    def __init__(self, module: PreTrainedModel, eos: Collection[int], cells: int) -> None:
        if (reason := why_not_llama(module)) is not None:
            raise UnsupportedModelError(f"This target cannot write in large batches: {reason}. Use device=cpu.")
        self._weights = LlamaWeights.of(module, "the target")
        self._layers = [_Layer(layer, self._weights) for layer in self._weights.layers]
        self._eos = torch.tensor(sorted(eos), device=self._weights.head.device)
        self._cells = cells

    @torch.inference_mode()
    def write(self, prompts: Sequence[Sequence[int]], ways: Sequence[Way]) -> list[Tokens]:
        """See `Writer.write`. Prompts of like length share a batch; the draws of a batch follow its first seed."""
        order = sorted(range(len(prompts)), key=lambda index: (len(prompts[index]), index))
        longest, texts = max((way.max_tokens for way in ways), default=0), dict[int, Tokens]()
        for group in _groups(order, [len(prompts[index]) + longest for index in order], self._cells):
            texts |= zip(group, self._run([prompts[i] for i in group], [ways[i] for i in group]), strict=True)
        return [texts[index] for index in range(len(prompts))]

    def _run(self, prompts: list[Sequence[int]], ways: list[Way]) -> list[Tokens]:
        draw, limits = _Draw(ways, self._eos.device), torch.tensor([way.max_tokens for way in ways])
        width, longest = max(map(len, prompts)), int(limits.max())
        rows = _Rows(prompts, width, width + longest, self._layers, self._weights)
        written = torch.full((len(prompts), longest), -1, dtype=torch.int64, device=self._eos.device)
        limits = limits.to(self._eos.device)
        live = torch.arange(len(prompts), device=self._eos.device)  # the texts that the rows hold
        tokens = draw(self._prefill(rows, prompts), live)
        for step in range(longest):
            written[live, step] = torch.where(rows.done, -1, tokens)
            rows.done |= torch.isin(tokens, self._eos) | (limits[live] <= step + 1)
            if (step + 1) % SHRINK == 0 or step + 1 == longest:
                keep = (~rows.done).nonzero()[:, 0]
                if not len(keep) or step + 1 == longest:
                    break
                live, tokens = live[keep], tokens[keep]
                rows.keep(keep)
            tokens = draw(self._pass(rows, tokens[:, None], width + step), live)
        return [[token for token in text if token >= 0] for text in written.tolist()]

    def _prefill(self, rows: _Rows, prompts: list[Sequence[int]]) -> Tensor:
        width = max(map(len, prompts))
        padded = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts])
        each = max(PREFILL_ROWS // width, 1)
        pieces = torch.split(padded.to(self._eos.device), each)
        return torch.cat([self._pass(part, piece, 0) for part, piece in zip(rows.split(each), pieces, strict=True)])

    def _pass(self, rows: _Rows, tokens: Tensor, start: int) -> Tensor:
        """Runs tokens [b, n] at columns start .. start + n - 1; logits of the last, [b, V]."""
        weights = self._weights
        stream = F.embedding(tokens, weights.embedding)
        view = rows.view(start, tokens.shape[1])
        for index, layer in enumerate(self._layers):
            stream = layer(stream, rows.keys[index], rows.values[index], view)
        last = F.rms_norm(stream[:, -1], weights.final_norm.shape, weights.final_norm.to(stream.dtype), weights.eps)
        return last @ weights.head.T


@dataclass(frozen=True)
class _View:
    """Where the rows of a pass stand, and what they see.

    Args:
        start: their first column.
        angles: cosines and sines [b, 1, n, D].
        hidden: which columns they may not see, [b, 1, 1, n, start + n]; or, where the kernel runs, what a single row
            of each sequence sees.
    """

    start: int
    angles: tuple[Tensor, Tensor]
    hidden: Tensor | AttentionPlan


class _Rows:
    """The state of the sequences of a batch: keys and values [b, KV heads, columns, D] a layer, and who is done."""

    def __init__(
        self, prompts: Sequence[Sequence[int]], width: int, columns: int, layers: list[_Layer], weights: LlamaWeights
    ) -> None:
        device, shape = weights.head.device, (len(prompts), weights.kv_heads, columns, weights.head_size)
        self.keys = [torch.empty(shape, dtype=weights.head.dtype, device=device) for _ in layers]
        self.values = [torch.zeros(shape, dtype=weights.head.dtype, device=device) for _ in layers]
        self.padding = torch.tensor([width - len(prompt) for prompt in prompts], device=device)
        self.done = torch.zeros(len(prompts), dtype=torch.bool, device=device)
        self._weights = weights

    def view(self, start: int, count: int) -> _View:
        """Of the rows in the columns from `start`."""
        weights, columns = self._weights, torch.arange(start + count, device=self.padding.device)
        positions = (columns[start:] - self.padding[:, None]).clamp(min=0)
        turned = positions[:, None, :, None] * weights.frequencies.repeat(2)
        cosines, sines = (f(turned) * weights.rope_factor for f in (torch.cos, torch.sin))
        angles = cosines.to(weights.head.dtype), sines.to(weights.head.dtype)
        if count == 1 and triton_runs(self.padding.device):
            return _View(start, angles, self._plan(start))
        hidden = (columns < self.padding[:, None])[:, None] | (columns > columns[start:, None])
        return _View(start, angles, hidden[:, None, None])

    def _plan(self, start: int) -> AttentionPlan:
        """One row of each sequence, in column `start`. Slot s lies s · D numbers from the first key."""
        heads, columns = self.keys[0].shape[1:3]
        each = torch.arange(len(self.padding), device=self.padding.device)
        slots = (each * heads * columns)[:, None] + torch.arange(columns, device=each.device)
        table = [each, torch.ones_like(each), each * columns + self.padding, torch.full_like(each, CHAIN)]
        none, whole = torch.zeros_like(each).int(), torch.stack(table, 1).int()
        return AttentionPlan(whole, (start - self.padding).int(), none, slots.flatten().int(), none[:1], start + 1)

    def split(self, each: int) -> Iterator[_Rows]:
        """Parts that share their memory with the whole."""
        for start in range(0, len(self.done), each):
            part, span = object.__new__(_Rows), slice(start, start + each)
            part.keys, part.values = [one[span] for one in self.keys], [one[span] for one in self.values]
            part.padding, part.done, part._weights = self.padding[span], self.done[span], self._weights
            yield part

    def keep(self, rows: Tensor) -> None:
        """Leaves only these rows."""
        for held in (self.keys, self.values):
            for layer in range(len(held)):
                held[layer] = held[layer][rows]
        self.padding, self.done = self.padding[rows], self.done[rows]


class _Layer:
    """One layer, with joined projections."""

    def __init__(self, layer: LlamaLayer, weights: LlamaWeights) -> None:
        self._weights, self._layer = weights, layer
        self._qkv = torch.cat(layer.qkv)
        biases = [bias for bias in layer.qkv_bias if bias is not None]
        self._bias = torch.cat(biases) if biases else None
        self._up = torch.cat([layer.gate, layer.up])
        self._norms = [None if norm is None else norm.to(layer.o.dtype) for norm in layer.norms]

    def __call__(self, stream: Tensor, keys: Tensor, values: Tensor, view: _View) -> Tensor:
        """Writes keys and values to the rows' columns, and gives the stream [b, n, hidden size] after it."""
        stream = stream + self._attention(stream, keys, values, view)
        gate, up = F.linear(self._normed(stream, 1), self._up).chunk(2, -1)
        return stream + F.linear(F.silu(gate) * up, self._layer.down)

    def _attention(self, stream: Tensor, keys: Tensor, values: Tensor, view: _View) -> Tensor:
        w, (count, rows) = self._weights, stream.shape[:2]
        heads = F.linear(self._normed(stream, 0), self._qkv, self._bias).view(count, rows, -1, w.head_size)
        q, k, v = torch.split(heads.transpose(1, 2), [w.heads, w.kv_heads, w.kv_heads], 1)
        end = view.start + rows
        keys[:, :, view.start : end] = _rotated(self._normed(k, 3), *view.angles)
        values[:, :, view.start : end] = v
        q = _rotated(self._normed(q, 2), *view.angles)
        if isinstance(view.hidden, AttentionPlan):
            mixed = _attended(q[:, :, 0], keys, values, view.hidden, w.scale)
            return F.linear(mixed.view(count, 1, -1), self._layer.o)
        q = q.reshape(count, w.kv_heads, -1, w.head_size)
        scores = (q @ keys[:, :, :end].transpose(2, 3)).view(count, w.kv_heads, -1, rows, end)
        chances = scores.float().mul_(w.scale).masked_fill_(view.hidden, -1e30).softmax(-1).to(v.dtype)
        mixed = chances.view(count, w.kv_heads, -1, end) @ values[:, :, :end]
        mixed = mixed.view(count, w.heads, rows, w.head_size).transpose(1, 2)
        return F.linear(mixed.reshape(count, rows, -1), self._layer.o)

    def _normed(self, rows: Tensor, which: int) -> Tensor:
        norm = self._norms[which]
        return rows if norm is None else F.rms_norm(rows, norm.shape, norm, self._weights.eps)


def _attended(queries: Tensor, keys: Tensor, values: Tensor, plan: AttentionPlan, scale: float) -> Tensor:
    """Attention of one row a sequence, [b, heads, D], over keys and values [b, KV heads, columns, D]."""
    from specdec.kernels.attention.triton import triton_attention  # there is Triton only on Linux

    sequences, heads, columns, size = keys.shape
    # Of the slots of a plan the kernel asks for two strides: that of a slot, and that from head to head.
    shape, strides = (((sequences - 1) * heads + 1) * columns, heads, size), (size, columns * size, 1)
    return triton_attention(
        queries.contiguous(), keys.as_strided(shape, strides), values.as_strided(shape, strides), plan, scale
    )


class _Draw:
    """Chooses each row's next token as its text's way says, from one stream of random numbers."""

    def __init__(self, ways: Sequence[Way], device: torch.device) -> None:
        self._random = torch.Generator(device).manual_seed(ways[0].seed)
        self._temperature = torch.tensor([way.temperature for way in ways], device=device)
        self._top_p = torch.tensor([way.top_p for way in ways], device=device)
        self._some_drawn, self._some_cut = any(way.temperature for way in ways), any(way.top_p < 1 for way in ways)

    def __call__(self, logits: Tensor, texts: Tensor) -> Tensor:
        """Token ids [b] for logits [b, V] of these texts [b]."""
        likeliest = logits.argmax(-1)
        if not self._some_drawn:
            return likeliest
        temperature = self._temperature[texts]
        scores = logits.float() / temperature.clamp(min=1e-6)[:, None]
        ids = None
        if self._some_cut:
            scores, ids = _nucleus(scores, self._top_p[texts])
        noise = torch.empty_like(scores).exponential_(generator=self._random)
        drawn = (scores - noise.log_()).argmax(-1)
        drawn = drawn if ids is None else ids.gather(-1, drawn[:, None])[:, 0]
        return torch.where(temperature > 0, drawn, likeliest)


def _groups(order: Sequence[int], columns: Sequence[int], cells: int) -> Iterator[list[int]]:
    """As many in a row as fit into a rectangle of so many cells, but one at least; the columns grow along the row."""
    group: list[int] = []
    for index, width in zip(order, columns, strict=True):
        if group and (len(group) + 1) * width > cells:
            yield group
            group = []
        group.append(index)
    if group:
        yield group


def _nucleus(scores: Tensor, top_p: Tensor) -> tuple[Tensor, Tensor]:
    """The largest scores and their ids, [b, k] each, without those beyond a share `top_p` [b] of all probability."""
    largest, ids = scores.topk(min(NUCLEUS, scores.shape[-1]))
    chances = (largest - scores.logsumexp(-1, keepdim=True)).exp()
    before = chances.cumsum(-1) - chances
    return largest.masked_fill(before >= top_p[:, None], -torch.inf), ids


def _rotated(heads: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    first, second = heads.chunk(2, -1)
    return heads * cosines + torch.cat([-second, first], -1) * sines
