"""Heads in plain numpy, float64, one row at a time: what the modules must give. No code of theirs is used.

`w` maps a head's parameter names to arrays; `c` is its configuration.
"""

from __future__ import annotations

import numpy as np


def norm(x, weight, eps):
    return x / np.sqrt(np.mean(x * x) + eps) * weight


def silu(x):
    return x / (1 + np.exp(-x))


def rotate(x, position, theta):
    """Halves of each head turn by position · theta^(-2i/D); the angle is rounded to float32, as in transformers."""
    half = x.shape[-1] // 2
    frequencies = np.float32(1) / np.float32(theta) ** (np.arange(0, 2 * half, 2, dtype=np.float32) / (2 * half))
    angle = (np.float32(position) * frequencies.astype(np.float32)).astype(np.float64)
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], -1)


class Layer:
    """Projections, attention over a list of keys, and the feed-forward part of one layer."""

    def __init__(self, w, prefix, c):
        self.w = {name[len(prefix) :]: value for name, value in w.items() if name.startswith(prefix)}
        self.c = c

    def project(self, which, x, position=None):
        y = self.w[f"self_attn.{which}_proj.weight"] @ x + self.w.get(f"self_attn.{which}_proj.bias", 0.0)
        y = y.reshape(-1, self.c.head_dim)
        if f"self_attn.{which}_norm.weight" in self.w:
            y = np.stack([norm(h, self.w[f"self_attn.{which}_norm.weight"], self.c.rms_norm_eps) for h in y])
        return y if position is None else rotate(y, position, self.c.rope_theta)

    def key_value(self, x, position):
        return self.project("k", x, position), self.project("v", x)

    def attend(self, q, seen):
        out = []
        for head, query in enumerate(q):
            group = head // (self.c.num_heads // self.c.num_kv_heads)
            scores = np.array([query @ k[group] for k, _ in seen]) / np.sqrt(self.c.head_dim)
            p = np.exp(scores - scores.max())
            out.append(sum(p_i * v[group] for p_i, (_, v) in zip(p / p.sum(), seen, strict=True)))
        return self.w["self_attn.o_proj.weight"] @ np.concatenate(out)

    def feed(self, x):
        y = norm(x, self.w["post_attention_layernorm.weight"], self.c.rms_norm_eps)
        inner = silu(self.w["mlp.gate_proj.weight"] @ y) * (self.w["mlp.up_proj.weight"] @ y)
        return x + self.w["mlp.down_proj.weight"] @ inner


def block(w, c, embedding, output, taps, tokens, anchor):
    """One block: taps [S, k, H] and tokens [S] of a text, the anchor's position → (hidden, logits, confidence logits),
    one row for each drafted token; the tokens before them are the text's own."""
    context = []
    for tap in taps[:anchor]:
        if c.fc_norm:
            tap = [norm(t, w[f"fc_norm.{i}.weight"], c.rms_norm_eps) for i, t in enumerate(tap)]
        context.append(norm(w["fc.weight"] @ np.concatenate(tap), w["hidden_norm.weight"], c.rms_norm_eps))
    rows = [embedding[tokens[anchor]]] + [embedding[c.mask_token_id]] * (c.block_size - 1)
    for number in range(c.num_layers):
        layer = Layer(w, f"layers.{number}.", c)
        normed = [norm(x, layer.w["input_layernorm.weight"], c.rms_norm_eps) for x in rows]
        before = [layer.key_value(x, t) for t, x in enumerate(context)]
        own = [layer.key_value(x, anchor + j) for j, x in enumerate(normed)]
        for j, x in enumerate(normed):
            seen = before + (own[: j + 1] if c.causal else own)
            rows[j] = layer.feed(rows[j] + layer.attend(layer.project("q", x, anchor + j), seen))
    hidden, logits, confidence = [], [], []
    known = {int(token): index for index, token in enumerate(output["ids"])}
    for k, x in enumerate(rows if c.anchor_predicts else rows[1:]):
        x = norm(x, w["norm.weight"], c.rms_norm_eps)
        before = known.get(int(tokens[min(anchor + k, len(tokens) - 1)]), len(known))
        hidden.append(x)
        logits.append(output["rows"][output["ids"]] @ x)
        parts = [x]
        if c.markov_rank:
            w1 = w["markov_head.markov_w1.weight"][before]
            logits[-1] = logits[-1] + w["markov_head.markov_w2.weight"] @ w1
            parts += [w1] if c.confidence_with_markov else []
        if c.confidence:
            confidence.append(
                w["confidence_head.proj.weight"][0] @ np.concatenate(parts) + w["confidence_head.proj.bias"][0]
            )
    return np.stack(hidden), np.stack(logits), np.array(confidence)


def drafts(layer, states, tokens, embedding, steps, read, finish):
    """A draft behind every pair of one text, as it is drafted: states [S - 1], tokens [S] → hidden [steps, S - 1, h];
    the tokens are the text's own, the last one where there are no more.

    `read(state, embedded)` gives what attention reads and the stream; `finish(stream)` what logits are made of and the
    next state.
    """
    hidden = [[None] * len(states) for _ in range(steps)]
    pairs = [layer.key_value(read(g, embedding[tokens[t + 1]])[0], t) for t, g in enumerate(states)]
    for t in range(len(states)):
        seen, state = pairs[:t], states[t]
        for k in range(steps):
            u, stream = read(state, embedding[tokens[min(t + 1 + k, len(tokens) - 1)]])
            seen = [*seen, layer.key_value(u, t + k)]
            stream = layer.feed(stream + layer.attend(layer.project("q", u, t + k), seen))
            hidden[k][t], state = finish(stream)
    return np.array(hidden)


def eagle3(w, c, embedding, taps, tokens, steps):
    states = []
    for tap in taps[:-1]:
        if c.fc_norm:
            tap = [norm(t, w[f"fc_norm.{i}.weight"], c.rms_norm_eps) for i, t in enumerate(tap)]
        fused = np.concatenate(tap)
        if c.norm_before_fc:
            fused = norm(fused, w["input_norm.weight"], c.rms_norm_eps)
        states.append(w["fc.weight"] @ fused + w.get("fc.bias", 0.0))

    def read(state, e):
        normed = norm(state, w["midlayer.hidden_norm.weight"], c.rms_norm_eps)
        u = np.concatenate([norm(e, w["midlayer.input_layernorm.weight"], c.rms_norm_eps), normed])
        return u, normed if c.norm_before_residual else state

    def finish(stream):
        hidden = norm(stream, w["norm.weight"], c.rms_norm_eps)
        return hidden, hidden if c.norm_output else stream

    return drafts(Layer(w, "midlayer.", c), states, tokens, embedding, steps, read, finish)


def eagle1(w, c, embedding, taps, tokens, steps):
    def read(state, e):
        x = w["fc.weight"] @ np.concatenate([e, state]) + w.get("fc.bias", 0.0)
        return x, x

    states = list(taps[:-1, 0])
    return drafts(Layer(w, "layers.0.", c), states, tokens, embedding, steps, read, lambda stream: (stream, stream))


def mtp(w, c, embedding, taps, tokens, steps):
    p = "mtp_layers.0."

    def normed(x, name):
        return norm(x, w[f"{p}{name}_layernorm.weight"], c.rms_norm_eps)

    def read(state, e):
        x = w[f"{p}input_proj.weight"] @ np.concatenate([normed(e, "token"), normed(state, "hidden")])
        return norm(x, w[f"{p}input_layernorm.weight"], c.rms_norm_eps), x

    def finish(stream):
        return (normed(stream, "final"),) * 2

    return drafts(Layer(w, p, c), list(taps[:-1, 0]), tokens, embedding, steps, read, finish)
