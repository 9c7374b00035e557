"""A roofline twin of the engine: bytes and operations of every kernel of a step, and the time a device needs for them.

A kernel takes max(bytes / bandwidth, operations / peak) and a fixed time to be started (Williams, Waterman and
Patterson 2009); where a device cannot quite read and compute at once, part of the smaller is added. A pass is the sum
of its kernels. With this a step's speedup over plain decoding can be predicted for any model, batch, context, draft and
device; what comes out is a prediction, and is labelled as one wherever it is shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from specdec.analysis.devices import COMPUTES, Device
from specdec.analysis.theory import expected_tokens

BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0, "int8": 1.0, "float8": 1.0, "int8_weight": 1.0,
         "int4": 20 / 32, "gguf": 20 / 32}  # fmt: skip
"""Of one weight, or one number in the cache. A file's own blocks are taken to be Q4_1, as the embedded model's are."""
HEAD_BYTES = {"int4": 34 / 32, "gguf": 34 / 32}
"""Of one weight of the head, where that is held otherwise."""


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a Llama-like model.

    Args:
        name: what it is called.
        layers, hidden, heads, kv_heads, head_size, intermediate, vocab: as in its configuration.
    """

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_size: int
    intermediate: int
    vocab: int

    @property
    def projections(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of a layer's products."""
        width = self.heads * self.head_size
        return {
            "qkv": (self.hidden, width + 2 * self.kv_heads * self.head_size),
            "o": (width, self.hidden),
            "gate_up": (self.hidden, 2 * self.intermediate),
            "down": (self.intermediate, self.hidden),
        }

    @property
    def weights(self) -> int:
        """Numbers that a pass reads: all products' and the head's."""
        return self.layers * sum(k * n for k, n in self.projections.values()) + self.hidden * self.vocab


SMOLLM2_135M = ModelShape("SmolLM2-135M", 30, 576, 9, 3, 64, 1536, 49152)
LLAMA_1B = ModelShape("Llama-3.2-1B", 16, 2048, 32, 8, 64, 8192, 128256)
LLAMA_8B = ModelShape("Llama-3.1-8B", 32, 4096, 32, 8, 128, 14336, 128256)
LLAMA_70B = ModelShape("Llama-3.1-70B", 80, 8192, 64, 8, 128, 28672, 128256)
MODELS = {model.name: model for model in (SMOLLM2_135M, LLAMA_1B, LLAMA_8B, LLAMA_70B)}


@dataclass(frozen=True)
class Work:
    """What one kind of kernel does in a pass.

    Args:
        name: which.
        bytes: read and written in memory, all launches together.
        operations: multiplications and additions, likewise.
        kind: what computes them: a dtype of matrix products, or "vector".
        launches: how many times it is started.
        entries: bytes of keys and values, read at the rate of `Device.cache_bandwidth`.
    """

    name: str
    bytes: float
    operations: float
    kind: str
    launches: int
    entries: float = 0.0

    def seconds(self, device: Device) -> float:
        """On `device`."""
        reading = self.bytes / device.bandwidth + self.entries / device.cache_bandwidth
        computing = self.operations / device.peak[self.kind]
        hidden = device.overlap * min(reading, computing)
        return reading + computing - hidden + self.launches * device.launch


def pass_work(
    model: ModelShape,
    rows: Sequence[int],
    contexts: Sequence[int],
    dtype: str = "bfloat16",
    kv_dtype: str = "bfloat16",
    logit_rows: int | None = None,
) -> list[Work]:
    """All kernels of one pass.

    Args:
        model: its shape.
        rows: of each sequence: 1 when it decodes plainly, γ + 1 or a tree's nodes and one more when it verifies.
        contexts: tokens in the cache of each sequence.
        dtype: form of the weights.
        kv_dtype: form of the cache.
        logit_rows: rows that get logits; all of them if left out.
    """
    total, wanted = sum(rows), sum(rows) if logit_rows is None else logit_rows
    activation = 4.0 if dtype == "float32" else 2.0
    kind, weight = COMPUTES.get(dtype, dtype), BYTES[dtype]
    entry = 2 * model.kv_heads * model.head_size * BYTES[kv_dtype]
    seen = [count * context + count * (count + 1) / 2 for count, context in zip(rows, contexts, strict=True)]
    read = sum(context + count for count, context in zip(rows, contexts, strict=True))

    def product(name: str, k: int, n: int, count: int, launches: int, weight: float = weight) -> Work:
        moved = k * n * weight + count * (k + n) * activation
        return Work(name, launches * moved, launches * 2.0 * count * k * n, kind, launches)

    layers = [product(name, k, n, total, model.layers) for name, (k, n) in model.projections.items()]
    size = model.heads * model.head_size
    between = total * (4 * model.hidden + 2 * size + 3 * model.intermediate)
    return [
        *layers,
        Work("attention", model.layers * 2 * total * size * activation, model.layers * 4.0 * size * sum(seen),
             "vector" if dtype == "float32" else "attention", model.layers, model.layers * read * entry),
        Work("norms, rotation, gates", model.layers * between * activation, model.layers * 12.0 * between, "vector",
             4 * model.layers),
        product("head", model.hidden, model.vocab, wanted, 1, HEAD_BYTES.get(dtype, weight)),
        Work("verdict", wanted * model.vocab * 4.0, 4.0 * wanted * model.vocab, "vector", 2),
    ]  # fmt: skip


def seconds(work: Sequence[Work], device: Device) -> float:
    """Of a pass: its kernels one after the other, and what the host adds."""
    return sum(part.seconds(device) for part in work) + device.host


@dataclass(frozen=True)
class Workload:
    """A way to decode on a device.

    Args:
        model, device: the target and where it runs.
        batch: sequences of a pass.
        context: tokens in the cache of each.
        dtype, kv_dtype: forms of weights and cache.
    """

    model: ModelShape
    device: Device
    batch: int = 1
    context: int = 512
    dtype: str = "bfloat16"
    kv_dtype: str = "bfloat16"

    def pass_seconds(self, rows: int) -> float:
        """Of a pass with `rows` rows for every sequence."""
        work = pass_work(self.model, [rows] * self.batch, [self.context] * self.batch, self.dtype, self.kv_dtype)
        return seconds(work, self.device)

    def fits(self) -> bool:
        """Whether weights and cache fit the device's memory."""
        entry = 2 * self.model.layers * self.model.kv_heads * self.model.head_size * BYTES[self.kv_dtype]
        return self.model.weights * BYTES[self.dtype] + self.batch * self.context * entry <= self.device.memory


def predicted_speedup(
    workload: Workload, acceptance: float, num_draft_tokens: int, drafter: ModelShape | None = None
) -> float:
    """Tokens per second over plain decoding, predicted: τ · T(B) / (γ · T_draft(B) + T_verify(B · (γ + 1))).

    Args:
        workload: the target.
        acceptance: α, per token.
        num_draft_tokens: γ.
        drafter: a drafting model on the same device; None drafts for nothing (n-gram).
    """
    drafting = 0.0
    if drafter is not None:
        drafting = num_draft_tokens * replace(workload, model=drafter).pass_seconds(1)
    step = drafting + workload.pass_seconds(num_draft_tokens + 1)
    return expected_tokens(acceptance, num_draft_tokens) * workload.pass_seconds(1) / step
