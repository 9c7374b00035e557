"""The C interface (library.cpp) as ctypes sees it: the structures of the headers, and the functions' arguments."""

from __future__ import annotations

from ctypes import POINTER, Structure, c_double, c_float, c_int, c_int32, c_int64, c_uint32, c_uint64, c_void_p
from typing import Any


class Linear(Structure):
    """linear/cpu.h"""

    _fields_ = [("kind", c_int32), ("gated", c_int32), ("n", c_int64), ("k", c_int64), ("weight", c_void_p),
                ("scale", c_void_p), ("sums", c_void_p), ("bias", c_void_p), ("runs", c_void_p),
                ("num_runs", c_int64)]  # fmt: skip


class KeyValues(Structure):
    """attention/cpu.h"""

    _fields_ = [("kind", c_int32), ("keys", c_void_p), ("values", c_void_p), ("key_scales", c_void_p),
                ("value_scales", c_void_p), ("slot_step", c_int64), ("head_step", c_int64), ("slots", c_int64),
                ("heads", c_int64), ("size", c_int64)]  # fmt: skip


class Shape(Structure):
    """attention/cpu.h"""

    _fields_ = [("heads", c_int64), ("kv_heads", c_int64), ("head_size", c_int64), ("scale", c_float),
                ("window", c_int64), ("softcap", c_float)]  # fmt: skip


class Sequences(Structure):
    """attention/cpu.h"""

    _fields_ = [("count", c_int64), ("row_start", c_void_p), ("committed", c_void_p), ("first", c_void_p),
                ("slot_start", c_void_p), ("slots", c_void_p), ("parent_start", c_void_p),
                ("parents", c_void_p)]  # fmt: skip


class Layer(Structure):
    """passes/llama.h"""

    _fields_ = [("qkv", Linear), ("o", Linear), ("gate_up", Linear), ("down", Linear), ("input_norm", c_void_p),
                ("attention_norm", c_void_p), ("query_norm", c_void_p), ("key_norm", c_void_p), ("cache", KeyValues),
                ("window", c_int64), ("skips_attention", c_int32), ("skips_feed_forward", c_int32)]  # fmt: skip


class Pairs(Structure):
    """passes/llama.h"""

    _fields_ = [("token_norm", c_void_p), ("state_norm", c_void_p), ("mix", Linear), ("starts_normed", c_int32),
                ("gives_normed", c_int32), ("bare", c_int32), ("unused", c_int32)]  # fmt: skip


class Model(Structure):
    """passes/llama.h"""

    _fields_ = [("num_layers", c_int64), ("hidden", c_int64), ("heads", c_int64), ("kv_heads", c_int64),
                ("head_size", c_int64), ("intermediate", c_int64), ("vocab_size", c_int64), ("eps", c_float),
                ("scale", c_float), ("embedding_kind", c_int32), ("unused", c_int32), ("embedding_rows", c_int64),
                ("embedding", c_void_p), ("final_norm", c_void_p), ("frequencies", c_void_p), ("rope_scale", c_float),
                ("unused2", c_float), ("layers", POINTER(Layer)), ("head", Linear),
                ("pairs", POINTER(Pairs))]  # fmt: skip


class Batch(Structure):
    """passes/llama.h"""

    _fields_ = [("rows", c_int64), ("logit_rows", c_int64), ("num_taps", c_int64), ("kept", c_int64),
                ("tokens", c_void_p), ("positions", c_void_p), ("write_slots", c_void_p), ("logits_of", c_void_p),
                ("taps", c_void_p), ("hidden", c_void_p), ("sequences", Sequences), ("states", c_void_p),
                ("next_states", c_void_p), ("chances", c_void_p)]  # fmt: skip


class RetrievalTexts(Structure):
    """retrieval/cpu.h"""

    _fields_ = [("tokens", c_void_p), ("order", c_void_p), ("length", c_int64), ("width", c_int64), ("end", c_int64),
                ("depth", c_int64)]  # fmt: skip


class RetrievalLimits(Structure):
    """retrieval/cpu.h"""

    _fields_ = [("min_match", c_int64), ("max_match", c_int64), ("max_depth", c_int64), ("max_nodes", c_int64),
                ("branches", c_int64), ("floor", c_double)]  # fmt: skip


class RetrievalDraft(Structure):
    """retrieval/cpu.h"""

    _fields_ = [("given", c_int64), ("tokens", c_void_p), ("parents", c_void_p), ("matches", c_void_p),
                ("chances", c_void_p)]  # fmt: skip


class Best(Structure):
    """rows/largest.h"""

    _fields_ = [("value", c_float), ("token", c_int64)]


class SuffixBounds(Structure):
    """suffix/cpu.h"""

    _fields_ = [("nodes", c_int64), ("depth", c_int64), ("branches", c_int64), ("floor", c_double)]


class SuffixNodes(Structure):
    """suffix/cpu.h"""

    _fields_ = [("given", c_int64), ("tokens", c_void_p), ("parents", c_void_p), ("kinds", c_void_p),
                ("chances", c_void_p)]  # fmt: skip


class Noise(Structure):
    """rows/cpu.h"""

    _fields_ = [("temperature", c_double), ("seed", c_uint64), ("position", c_uint32), ("stream", c_uint32)]


class Successors(Structure):
    """successors/cpu.h"""

    _fields_ = [("buckets", c_int64), ("vocab_size", c_int64), ("clock", c_int64), ("entries", c_void_p),
                ("first", c_void_p), ("weights", c_void_p)]  # fmt: skip


class MarkovTerm(Structure):
    """markov/cpu.h"""

    _fields_ = [("vocab_size", c_int64), ("rank", c_int64), ("known", c_int64), ("before", c_void_p),
                ("confidence", c_void_p), ("after", Linear)]  # fmt: skip


class MarkovBlocks(Structure):
    """markov/cpu.h"""

    _fields_ = [("count", c_int64), ("starts", c_void_p), ("anchors", c_void_p), ("stride", c_int64),
                ("logits", c_void_p), ("confidences", c_void_p)]  # fmt: skip


class MarkovTrees(Structure):
    """markov/cpu.h"""

    _fields_ = [("most", c_int64), ("floor", c_double), ("tokens", c_void_p), ("parents", c_void_p),
                ("chances", c_void_p), ("sizes", c_void_p)]  # fmt: skip


class ContextLayer(Structure):
    """passes/context.h"""

    _fields_ = [("key_norm", c_void_p), ("cache", KeyValues)]


class Context(Structure):
    """passes/context.h"""

    _fields_ = [("taps", c_int64), ("width", c_int64), ("hidden", c_int64), ("num_layers", c_int64),
                ("kv_heads", c_int64), ("head_size", c_int64), ("eps", c_float), ("rope_scale", c_float),
                ("tap_norms", c_void_p), ("norm", c_void_p), ("frequencies", c_void_p),
                ("layers", POINTER(ContextLayer)), ("fuse", Linear), ("sides", Linear)]  # fmt: skip


class Fuse(Structure):
    """passes/context.h"""

    _fields_ = [("width", c_int64), ("hidden", c_int64), ("piece", c_int64), ("eps", c_float), ("unused", c_float),
                ("norms", c_void_p), ("product", Linear)]  # fmt: skip


class PairDraws(Structure):
    """passes/pairs.h"""

    _fields_ = [("noise", Noise), ("top_p", c_double), ("min_p", c_double), ("top_k", c_int64)]


class PairTrees(Structure):
    """passes/pairs.h"""

    _fields_ = [("most", c_int64), ("width", c_int64), ("floor", c_double), ("deepen", c_double),
                ("nodes", c_void_p), ("depths", c_void_p), ("ids", c_void_p), ("draws", POINTER(PairDraws)),
                ("tokens", c_void_p), ("parents", c_void_p), ("chances", c_void_p), ("sizes", c_void_p)]  # fmt: skip


class PairChains(Structure):
    """passes/pairs.h"""

    _fields_ = [("most", c_int64), ("target_size", c_int64), ("depths", c_void_p), ("points", c_void_p),
                ("temperatures", c_void_p), ("ids", c_void_p), ("below", c_void_p), ("bins", c_int64),
                ("weight", c_double), ("accepted", c_void_p), ("tested", c_void_p), ("tokens", c_void_p),
                ("q", c_void_p), ("largest", c_void_p), ("sizes", c_void_p)]  # fmt: skip


class CommitTensor(Structure):
    """commit/cpu.h"""

    _fields_ = [("memory", c_void_p), ("slots", c_int64), ("heads", c_int64), ("slot_step", c_int64),
                ("head_step", c_int64), ("size", c_int64)]  # fmt: skip


MIRRORED = (Linear, KeyValues, Shape, Sequences, Layer, Model, Batch, Best, SuffixBounds, SuffixNodes,
            RetrievalTexts, RetrievalLimits, RetrievalDraft, Successors, MarkovTerm, MarkovBlocks,
            MarkovTrees, ContextLayer, Context, Pairs, Fuse, PairDraws, PairTrees, PairChains,
            CommitTensor, Noise)  # fmt: skip
"""In the order of `specdec_sizes` (library.cpp)."""
WRITER = [POINTER(Successors), c_uint64, c_int64]
"""Table, scope and owner."""
DRAFT = [c_void_p, c_int64, c_void_p, c_void_p, c_int64]
"""A context and its length; tokens and parents of a draft, and their number."""
SIGNATURES: dict[str, list[Any]] = {
    "linear": [POINTER(Linear), c_void_p, c_int64, c_int64, c_void_p, c_int64, c_int],
    "write": [POINTER(KeyValues), POINTER(Shape), c_void_p, c_void_p, c_void_p, c_int64],
    "commit": [POINTER(CommitTensor), c_int64, c_void_p, c_void_p, c_int64],
    "attention": [c_void_p, c_int64, POINTER(KeyValues), POINTER(Shape), POINTER(Sequences), c_void_p, c_int],
    "rms_norm": [c_void_p, c_void_p, c_int64, c_int64, c_float, c_void_p],
    "rotate": [c_void_p, c_void_p, c_void_p, c_int64, c_int64, c_int64],
    "forward": [POINTER(Model), POINTER(Batch), c_void_p, c_void_p, c_int],
    "pairs_grow": [POINTER(Model), POINTER(Batch), POINTER(PairTrees), c_int],
    "pairs_draw": [POINTER(Model), POINTER(Batch), POINTER(PairChains), c_int],
    "fuse": [POINTER(Fuse), c_void_p, c_int64, c_void_p, c_int],
    "remember": [POINTER(Context), c_void_p, c_void_p, c_void_p, c_int64, c_int],
    "argmax": [c_void_p, c_int64, POINTER(c_float), POINTER(c_int64)],
    "gumbel_argmax": [c_void_p, c_int64, c_uint64, c_uint32, c_uint32, POINTER(c_int64), c_int],
    "gumbel_noise": [c_void_p, c_int64, c_uint64, c_uint32, c_uint32, c_void_p],
    "forbid": [c_void_p, c_void_p, c_int64],
    "log_sums_exp": [c_void_p, c_int64, c_int64, c_void_p, c_int],
    "divide": [c_void_p, c_int64, c_float, c_void_p, c_int],
    "retrieve": [
        POINTER(RetrievalTexts),
        POINTER(RetrievalLimits),
        c_void_p,
        c_int64,
        POINTER(RetrievalDraft),
        POINTER(c_int64),
    ],
    "read": [c_void_p, c_int64, c_int],
    "suffix_new": [POINTER(c_void_p)],
    "suffix_free": [c_void_p],
    "suffix_extend": [c_void_p, c_void_p, c_int64, c_int],
    "suffix_bytes": [c_void_p, POINTER(c_int64)],
    "suffix_draft": [
        c_void_p,
        c_void_p,
        c_int64,
        c_void_p,
        c_int64,
        POINTER(SuffixBounds),
        POINTER(SuffixNodes),
        POINTER(c_int64),
    ],
    "successors_read": [*WRITER, c_void_p, c_int64, c_int64],
    "successors_learn": [*WRITER, *DRAFT, c_void_p, c_int64, c_void_p, c_int64, c_int64],
    "successors_grow": [
        *WRITER,
        *DRAFT,
        c_void_p,
        c_void_p,
        POINTER(Noise),
        c_int64,
        c_int64,
        c_double,
        POINTER(c_int64),
    ],
    "successors_forget": [POINTER(Successors), c_uint64],
    "markov_grow": [POINTER(MarkovTerm), POINTER(MarkovBlocks), POINTER(MarkovTrees), c_int],
}
"""Functions that check what they are given (gate.h): they return 0, or 1 when they refuse."""
