"""Every Triton kernel in the forms in which it is shipped, and what may come of compiling it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import triton
import triton.language as tl
from triton.compiler import ASTSource

from specdec.kernels.attention import triton as attention
from specdec.kernels.commit import triton as commit
from specdec.kernels.filters import triton as filters
from specdec.kernels.linear import triton as linear
from specdec.kernels.linear import triton_blocks as blocks
from specdec.kernels.linear.layouts import BLOCK, TYPES
from specdec.kernels.norm import triton as norm
from specdec.kernels.rows import triton as rows
from specdec.kernels.trees import triton as trees
from specdec.kernels.verdicts import RULES
from specdec.kernels.verdicts import triton as verdicts


@dataclass(frozen=True)
class Case:
    """One kernel as it is shipped.

    Args:
        name: what it is called in the table.
        kernel: the jitted function.
        types: argument → type, as Triton writes them ("*bf16", "i32"); a value for constants and None.
        registers: budget per thread.
        warps, stages: as launched.
        spills: budget in bytes per thread.
        matrix: whether matrix instructions must be there.
        wide: whether 16-byte loads must be there.
        skip: targets that cannot compile it → why.
    """

    name: str
    kernel: Any
    types: Mapping[str, Any]
    registers: int = 255
    warps: int = 4
    stages: int = 2
    spills: int = 0
    matrix: bool = False
    wide: bool = False
    skip: Mapping[str, str] = field(default_factory=dict)

    def source(self) -> ASTSource:
        """With the hints that a launch gives: pointers and strides are multiples of 16."""
        names = self.kernel.arg_names
        missing = [name for name in names if name not in self.types]
        assert not missing, f"{self.name}: no type for {missing}"
        signature = {name: self.types[name] if _is_type(self.types[name]) else "constexpr" for name in names}
        constants = {(i,): self.types[name] for i, name in enumerate(names) if not _is_type(self.types[name])}
        hints = {
            (i,): [["tt.divisibility", 16]]
            for i, name in enumerate(names)
            if signature[name].startswith("*") or (signature[name] in ("i32", "i64") and name in STRIDES)
        }
        return ASTSource(fn=self.kernel, signature=signature, constexprs=constants, attrs=hints)


STRIDES = {"query_row", "query_head_stride", "key_slot", "key_head", "value_slot", "value_head", "row_stride", "x_row",
           "weight_row", "out_row", "p_stride", "q_stride", "K", "V"}  # fmt: skip


def _is_type(value: Any) -> bool:
    return isinstance(value, str) and bool(re.fullmatch(r"\*?(fp\d+(e\d\w+)?|bf16|[iu]\d+)", value))


TORCH = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
FP8 = {"sm_80": "no FP8 before sm_89", "gfx942": "its FP8 is another format (e4m3fnuz)"}


def attention_cases() -> list[Case]:
    """Head sizes, dtypes, forms of the cache, masks; both ways over the splits."""

    def types(dtype: str, size: int, kv: str | None = None, parallel: bool = False, **options: Any) -> dict[str, Any]:
        config = attention.config_for(TORCH[dtype], size)
        strides = dict.fromkeys(
            ("query_row", "query_head_stride", "key_slot", "key_head", "value_slot", "value_head"), "i32"
        )
        tables = dict.fromkeys(("out_of_range", "tiles", "positions", "path_starts", "slots", "paths"), "*i32")
        scales = dict.fromkeys(("key_scales", "value_scales"), None if kv is None else "*fp32")
        partials = dict.fromkeys(("partial", "partial_maximum", "partial_total"), "*fp32")
        numbers = dict.fromkeys(("scale", "cap", "unified", "reach"), "fp32") | {"num_rows": "i32", "window": "i32"}
        held = {"query": f"*{dtype}", "keys": f"*{kv or dtype}", "values": f"*{kv or dtype}", "out": f"*{dtype}"}
        constants = {"HEADS": 32, "KV_HEADS": 8, "SIZE": size, "BLOCK_D": triton.next_power_of_2(size),
                     "BLOCK_M": config.block_m, "BLOCK_N": config.block_n, "SPLIT": config.split, "PARALLEL": parallel,
                     "QUANTIZED": kv is not None, "WINDOWED": False, "CAPPED": False, "UNIFIED": False,
                     "REPAIR": False}  # fmt: skip
        return strides | tables | scales | partials | numbers | held | constants | options

    def case(
        what: str, dtype: str, size: int, kv: str | None = None, skip: Mapping[str, str] | None = None, **options: Any
    ) -> Case:
        config = attention.config_for(TORCH[dtype], size)
        name = f"attention, {dtype}, heads of {size}{what and ', '}{what}"
        stages = 1 if options.get("UNIFIED") else config.num_stages
        half = dtype != "fp32"
        wide = half and kv is None and size > 64  # else a tile has less than 16 bytes for every thread
        return Case(name, attention.attention_kernel, types(dtype, size, kv, **options), 255, config.num_warps, stages,
                    160 if half else 0, half, wide, skip or {})  # fmt: skip

    cases = [case("", dtype, size) for dtype in ("fp16", "bf16", "fp32") for size in (64, 80, 96, 128, 256)]
    cases += [
        case("a program a split", "bf16", 128, parallel=True),
        case("unified maximum", "bf16", 128, UNIFIED=True),
        case("repair", "bf16", 128, REPAIR=True),
        case("window and soft-cap", "bf16", 128, WINDOWED=True, CAPPED=True),
        case("int8 cache", "bf16", 128, "i8"),
        case("fp8 cache", "bf16", 128, "fp8e4nv", skip=FP8),
    ]
    merge = {"partial": "*fp32", "partial_maximum": "*fp32", "partial_total": "*fp32", "out": "*bf16",
             "out_of_range": "*i32", "positions": "*i32", "num_rows": "i32", "window": "i32", "unified": "fp32",
             "reach": "fp32", "HEADS": 32, "SIZE": 128, "BLOCK_D": 128, "SPLIT": 1024, "WINDOWED": False,
             "UNIFIED": False}  # fmt: skip
    return [*cases, Case("attention, merge of splits", attention.merge_kernel, merge, registers=64, warps=1)]


def linear_cases() -> list[Case]:
    """Float and 8-bit forms of the flat kernel, and GEMV."""

    def flat(x: str, weight: str, out: str, config: linear.FlatConfig = linear.FLAT, biased: bool = False) -> Case:
        types = {"x": f"*{x}", "weight": f"*{weight}", "bias": "*fp32" if biased else None,
                 "x_scales": "*fp32" if x == "i8" else None,
                 "weight_scales": "*fp32" if weight == "i8" else None, "out": f"*{out}",
                 **dict.fromkeys(("rows", "N", "K", "x_row", "weight_row", "out_row"), "i32"),
                 "BLOCK_M": config.block_m, "BLOCK_N": config.block_n, "BLOCK_K": config.block_k,
                 "ACC": tl.int32 if x == "i8" else tl.float32, "X_SCALED": x == "i8",
                 "W_SCALED": weight == "i8", "BIASED": biased}  # fmt: skip
        name = f"linear, {x} × {weight}{', with bias' * biased}{', few rows of weights' * (config is linear.NARROW)}"
        return Case(name, linear.flat_kernel, types, 255, config.num_warps, config.num_stages,
                    16 if config is linear.NARROW else 0, x != "fp32", wide=True)  # fmt: skip

    gemv = {"x": "*bf16", "weight": "*bf16", "bias": None, "weight_scales": None, "out": "*bf16", "N": "i32",
            "K": "i32", "weight_row": "i32", "BLOCK_N": 16, "BLOCK_K": 512, "W_SCALED": False,
            "BIASED": False}  # fmt: skip
    return [
        flat("bf16", "bf16", "bf16"),
        flat("fp16", "fp16", "fp16"),
        flat("fp32", "fp32", "fp32", linear.FLAT_FLOAT32),
        flat("bf16", "i8", "bf16"),
        flat("i8", "i8", "fp32"),
        flat("bf16", "bf16", "fp32", linear.NARROW, biased=True),
        *(flat(x, weight, "bf16", linear.NARROW) for x, weight in (("bf16", "bf16"), ("bf16", "i8"), ("i8", "i8"))),
        Case("linear, gemv bf16", linear.gemv_kernel, gemv, registers=255, wide=True),
    ]


def block_cases() -> list[Case]:
    """Every type of blocks."""

    def case(name: str) -> Case:
        kind = TYPES[name]
        types = {"x": "*i8", "x_scales": "*fp32", "codes": "*u8", "rest": "*u8", "fines": "*i8", "halves": "*fp16",
                 "bias": None, "out": "*bf16", **dict.fromkeys(("rows", "N", "BLOCKS", "out_row"), "i32"),
                 "BITS": kind.bits, "ZERO": kind.zero, "PARTS": kind.num_parts, "SPAN": kind.span // BLOCK,
                 "HAS_MINIMUM": kind.has_minimum, "BIASED": False, "BLOCK_M": blocks.BLOCK_M,
                 "BLOCK_N": blocks.BLOCK_N}  # fmt: skip
        return Case(f"linear, i8 × {name}", blocks.blocks_kernel, types, 192, blocks.NUM_WARPS, blocks.NUM_STAGES,
                    matrix=True, wide=True)  # fmt: skip

    return [case(name) for name in TYPES]


def norm_cases() -> list[Case]:
    """Everything between two products."""
    rms = {"x": "*fp32", "delta": "*bf16", "weight": "*fp32", "out": "*bf16", "eps": "fp32", "WIDTH": 4096,
           "BLOCK": 4096, "ADDS": True}  # fmt: skip

    alone = rms | {"delta": None, "out": "*fp32", "ADDS": False}

    def rope(kv: str, quantized: bool, heads: int = 32) -> dict[str, Any]:
        scales = "*fp32" if quantized else None
        return {"qkv": "*bf16", "queries": "*bf16", "keys": f"*{kv}", "values": f"*{kv}", "key_scales": scales,
                "value_scales": scales, "positions": "*i32", "slots": "*i64", "frequencies": "*fp32",
                "query_norm": None, "key_norm": None, "factor": "fp32", "eps": "fp32", "HEADS": heads, "KV_HEADS": 8,
                "SIZE": 128, "BLOCK_H": max(heads, 1), "BLOCK_KV": 8, "BLOCK_HALF": 64, "QUANTIZED": quantized,
                "INT8": kv == "i8", "NORMS": False}  # fmt: skip

    silu = {"gate_up": "*bf16", "out": "*bf16", "WIDTH": 14336, "BLOCK": 2048}
    quantize = {"x": "*bf16", "out": "*i8", "scales": "*fp32", "rows": "i32", "WIDTH": 4096, "BLOCK": 4096,
                "TOGETHER": 1}  # fmt: skip
    in_blocks = quantize | {"WIDTH": 32, "BLOCK": 32, "TOGETHER": norm.TOGETHER // 32}
    return [
        Case("rms norm with residual", norm.rms_norm_kernel, rms, wide=True),
        Case("rms norm alone, fp32", norm.rms_norm_kernel, alone, wide=True),
        Case("rope and write, keys and values alone", norm.rope_write_kernel, rope("bf16", False, 0)),
        Case("rope and write, bf16 cache", norm.rope_write_kernel, rope("bf16", False)),
        Case("rope and write, int8 cache", norm.rope_write_kernel, rope("i8", True)),
        Case("rope and write, fp8 cache", norm.rope_write_kernel, rope("fp8e4nv", True), skip=FP8),
        Case("silu · mul", norm.silu_mul_kernel, silu, registers=64, wide=True),
        Case("quantize rows", norm.quantize_kernel, quantize, wide=True),
        Case("quantize blocks of 32", norm.quantize_kernel, in_blocks, registers=64, wide=True),
    ]


def tree_cases() -> list[Case]:
    """The largest scores of rows, and levels of trees: the first, one in between, the last."""
    tops = {"rows": "*fp32", "row_stride": "i32", "V": "i32", "ids": "*i64", "chances": "*fp32", "K": 4,
            "BLOCK": rows.BLOCK}  # fmt: skip
    bits32 = ("nodes", "depths", "lengths", "room", "run_above", "counts_above", "numbers_above", "slots_above", "run",
              "counts", "numbers", "slots", "row_slots", "row_positions")  # fmt: skip
    bits64 = ("tops", "ids", "tokens", "parents", "kept", "broken", "row_tokens", "rows_above")
    level = {**dict.fromkeys(bits32, "*i32"), **dict.fromkeys(bits64, "*i64"), "chances": "*fp32", "bounds": "*fp64",
             "values": "*fp64", "odds": "*fp64", "LEVELS": 5, "K": 4, "WIDTH": 4, "CAPACITY": 68, "ROOM": 12,
             "BLOCK": 128, "DEEP": 8}  # fmt: skip
    levels = [
        Case(f"tree, level {number} of 5", trees.level_kernel, level | {"LEVEL": number, "FIRST": first, "ROWS": width})
        for number, first, width in ((1, 0, 1), (3, 20, 4), (5, 52, 4))
    ]
    return [Case("largest scores of rows", rows.tops_kernel, tops, warps=8, wide=True), *levels]


def verdict_cases() -> list[Case]:
    """Statistics of rows, verdicts of every rule, filters, and the move of an accepted path."""
    stats = {"logits": "*fp32", "temperatures": "*fp32", "seeds": "*i64", "positions": "*i32", "row_stride": "i32",
             "V": "i32", "log_sums": "*fp64", "largest": "*fp32", "best": "*i32",
             "BLOCK": verdicts.BLOCK}  # fmt: skip
    verdict = {"p_logits": "*fp32", "q_logits": "*fp32", "p_sums": "*fp64", "q_sums": "*fp64", "temperatures": "*fp32",
               "seeds": "*i64", "p_stride": "i32", "q_stride": "i32", "V": "i32", "BLOCK": verdicts.BLOCK,
               **dict.fromkeys(("best", "row_starts", "node_starts", "tokens", "parents", "anchors", "path", "lengths",
                                "next_tokens"), "*i32")}  # fmt: skip
    filtering = {"logits": "*fp32", "out": "*fp32", "temperatures": "*fp32", "top_ks": "*i32", "top_ps": "*fp64",
               "min_ps": "*fp32", "row_stride": "i32", "V": "i32", "BLOCK": filters.BLOCK}  # fmt: skip
    moves = {"addresses": "*i64", "example": "*bf16", "starts": "*i32", "sources": "*i32", "targets": "*i32",
             "WIDTH": 1024, "BLOCK": 1024}  # fmt: skip
    return [
        Case("row statistics, argmax", verdicts.stats_kernel, stats | {"NOISY": False, "SUMS": False}, wide=True),
        Case("row statistics, gumbel", verdicts.stats_kernel, stats | {"NOISY": True, "SUMS": False}),
        Case("row statistics, sums", verdicts.stats_kernel, stats | {"NOISY": False, "SUMS": True}, wide=True),
        *(
            Case(
                f"verdict, {rule}{', with q' if has_q else ''}",
                verdicts.verdict_kernel,
                verdict | {"RULE": number, "HAS_Q": has_q},
                spills=64,  # around the calls that divide doubles: once a token that is looked at
            )
            for rule, number in RULES.items()
            for has_q in ((False, True) if rule in ("token", "block") else (False,))
        ),
        Case("top-k, top-p, min-p", filters.filter_kernel, filtering),
        Case("commit of a path", commit.commit_kernel, moves, registers=64),
    ]


GROUPS: tuple[Callable[[], list[Case]], ...] = (
    attention_cases, linear_cases, block_cases, norm_cases, tree_cases, verdict_cases
)  # fmt: skip
