"""A drafter as another package would write it: a head that is the target's own last layer, with a pool of its own.

It reads the stream before the last layer and compares its logits with the target's at every row that the target runs:
one position, norm, mask or slot that is off shows at once.
"""

import torch
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from specdec import Drafter, Needs
from specdec.cache import KVLayout
from specdec.drafters.growth import GrowingTree
from specdec.kernels.attention import paged_attention
from specdec.kernels.attention.reference import sequence_keys
from specdec.models import PassOutput, RaggedBatch, SequenceRows, Wants


class LastLayerHead(Drafter):
    name, deterministic = "last_layer", False

    def __init__(self, module, shape):
        super().__init__(shape=shape)
        self.base, self.lm_head, self.layer = module.model, module.lm_head, module.model.layers[-1]
        self.attention, self.pairs, self.drawn = self.layer.self_attn, [], {}

    def bind(self, target):
        self.target, self.before = target.model, target.model.kv_layout.num_layers - 1
        layout = KVLayout(1, self.attention.config.num_key_value_heads, self.attention.head_dim)
        return Needs(hidden=(self.before,), logits="all", pools=(layout,), whole_prefix=True)

    def attach(self, cache, pools):
        self.cache, [self.pool] = cache, pools

    def propose(self, requests):
        trees = [
            GrowingTree(r, self.shape.truncated(r.max_depth), slots, len(r.tokens) - 1, r.tokens[-1:])
            for r, slots in ((r, self.cache.slots(r.request_id)) for r in requests)
        ]
        self.drawn = {r.request_id: [] for r in requests}
        while active := [tree for tree in trees if tree.growing]:
            batch = RaggedBatch.build([tree.rows() for tree in active])
            stream = self.target.run(batch, self.cache.target, Wants("argmax", (self.before,))).hidden[:, 0]
            counts = [tree.num_rows for tree in active]
            for tree, logits in zip(active, torch.split(self.logits(batch, stream), counts), strict=True):
                self.drawn[tree.request.request_id].append(logits)
                tree.grow(PassOutput(logits))
        return [tree.tree() for tree in trees]

    def observe(self, outcomes):
        for one in outcomes:
            seq, end = one.request_id, one.start + len(one.cached)
            assert self.cache.filled(seq, self.pool) >= one.start, "the head has missed a part of the text"
            part = SequenceRows(one.cached, self.cache.slots(seq)[:end], one.start)
            ours = self.logits(RaggedBatch.build([part]), one.hidden[one.rows, 0])
            self.pairs.append((ours, one.logits[one.rows], one.hidden[one.rows, 0]))
            self.cache.fill(seq, self.pool, end)
            if one.drafter == self.name and len(one.tree):  # the rows of its tree, those that were refused too
                ours, last = torch.cat(self.drawn[seq]), len(one.tail) - 1
                self.pairs.append((ours, one.logits[last : last + len(ours)], one.hidden[last : last + len(ours), 0]))

    def logits(self, batch, stream):
        """The last layer, the norm and the head, of all rows: stream [T, H] → [T, V]."""
        a, x = self.attention, self.layer.input_layernorm(stream)
        q, k, v = (p(x).view(len(x), -1, a.head_dim) for p in (a.q_proj, a.k_proj, a.v_proj))
        q, k = apply_rotary_pos_emb(q[None], k[None], *self.base.rotary_emb(x, batch.positions[None]), unsqueeze_dim=2)
        keys, values = self.pool.layer(0)[:2]
        keys[batch.write_slots], values[batch.write_slots] = k[0], v
        attended = paged_attention(q[0], keys, values, sequence_keys(batch.columns), a.scaling).flatten(1)
        stream = stream + a.o_proj(attended)
        return self.lm_head(self.base.norm(stream + self.layer.mlp(self.layer.post_attention_layernorm(stream))))
