"""A drafter as another package would write it: a head that is the target's own last layer, with a pool of its own.

It reads the stream before the last layer, keeps the head's keys and values beside the target's, and compares its
logits with the target's at every row that the target runs. They must be equal: one position, norm, mask or slot that is
off shows at once.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from specdec import Drafter, Needs
from specdec.cache import KVLayout
from specdec.drafters.growth import GrowingTree
from specdec.models import PassOutput, RaggedBatch, SequenceRows, Wants


class LastLayerHead(Drafter):
    name = "last_layer"
    deterministic = False

    def __init__(self, module, shape, tolerance=1e-4):
        super().__init__(shape=shape)
        self.base, self.lm_head, self.layer = module.model, module.lm_head, module.model.layers[-1]
        self.tolerance, self.largest, self.compared = tolerance, 0.0, 0
        self.drawn: dict[int, Tensor] = {}  # request → logits that its tree was drawn from, one row a node that was run

    def bind(self, target):
        self.target, attention = target.model, self.layer.self_attn
        self.boundary = target.model.kv_layout.num_layers - 1
        heads = attention.config.num_key_value_heads
        return Needs((self.boundary,), "all", (KVLayout(1, heads, attention.head_dim),), whole_prefix=True)

    def attach(self, cache, pools):
        self.cache, [self.pool] = cache, pools

    def propose(self, requests):
        slots = [self.cache.slots(r.request_id) for r in requests]
        trees = [
            GrowingTree(r, self.shape.truncated(r.max_depth), held, len(r.tokens) - 1, r.tokens[-1:])
            for r, held in zip(requests, slots, strict=True)
        ]
        rows: dict[int, list[Tensor]] = {r.request_id: [] for r in requests}
        while active := [tree for tree in trees if tree.growing]:
            batch = RaggedBatch.build([tree.rows() for tree in active])
            hidden = self.target.run(batch, self.cache.target, Wants("argmax", (self.boundary,))).hidden[:, 0]
            counts = [tree.num_rows for tree in active]
            for tree, logits in zip(active, torch.split(self.head(batch, hidden), counts), strict=True):
                rows[tree.request.request_id].append(logits)
                tree.grow(PassOutput(logits))
        self.drawn = {seq: torch.cat(kept) for seq, kept in rows.items() if kept}
        return [tree.tree() for tree in trees]

    def observe(self, outcomes):
        for one in outcomes:
            seq, end = one.request_id, one.start + len(one.cached)
            assert self.cache.filled(seq, self.pool) >= min(one.start, end), "the head misses a part of the text"
            part = SequenceRows(one.cached, self.cache.slots(seq)[:end], one.start, logit_rows=range(len(one.cached)))
            self.compare(self.head(RaggedBatch.build([part]), one.hidden[one.rows, 0]), one.logits[one.rows])
            self.cache.fill(seq, self.pool, end)
            if one.drafter == self.name and len(one.tree):  # rows of the tree that were refused, too
                drawn = self.drawn[seq]
                self.compare(drawn, one.logits[len(one.tail) - 1 :][: len(drawn)])

    def compare(self, ours, target):
        self.largest = max(self.largest, float((ours - target).abs().max()))
        self.compared += len(ours)
        assert self.largest <= self.tolerance, f"the head's logits are off by {self.largest}"

    def head(self, batch, stream):
        """The last layer, final norm and head, dense: stream [T, H] → logits [T, V] of all rows."""
        attention, x = self.layer.self_attn, self.layer.input_layernorm(stream)
        q, k, v = (
            p(x).view(len(x), -1, attention.head_dim) for p in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        cos, sin = self.base.rotary_emb(x, batch.positions[None])
        q, k = apply_rotary_pos_emb(q[None], k[None], cos, sin, unsqueeze_dim=2)
        keys, values, _, _ = self.pool.layer(0)
        keys[batch.write_slots], values[batch.write_slots] = k[0], v
        attended, start = [], 0
        for part in batch.parts:
            run, slots = len(part.tokens), part.slots[: part.committed + part.first + len(part.tokens)]
            group = q.shape[2] // keys.shape[1]
            held_keys, held_values = (side[slots].repeat_interleave(group, 1) for side in (keys, values))
            weights = torch.einsum("thd,shd->hts", q[0, start : start + run], held_keys) * attention.scaling
            if (visible := part.visible()) is not None:
                weights = weights.masked_fill(~visible, -torch.inf)
                held_values = held_values.nan_to_num()  # rows that no one sees may never have been written
            attended.append(torch.einsum("hts,shd->thd", weights.softmax(-1), held_values).flatten(1))
            start += run
        stream = stream + attention.o_proj(torch.cat(attended))
        return self.lm_head(self.base.norm(stream + self.layer.mlp(self.layer.post_attention_layernorm(stream))))
