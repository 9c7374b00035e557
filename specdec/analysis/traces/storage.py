"""Traces as safetensors files: ragged steps one after the other, lengths beside them, the rest in the metadata."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import pad

from specdec.analysis.traces.compact import NO_TOKEN
from specdec.analysis.traces.trace import Trace, TraceInfo, TraceStep
from specdec.errors import ConfigError, SpecdecError
from specdec.verify.tree import DraftTree, TreeShape

SCHEMA = "specdec.acceptance-trace"
VERSION = "2"
TREES = ("tokens", "parents")
REQUIRED = {"request", "anchor", "num_nodes", "has_q", *TREES, "scores", "text", "text_length"}


def save_trace(trace: Trace, path: str | Path) -> None:
    """Writes a trace; numbers keep their bits.

    The tensors, with S steps, N nodes and rows of W columns (V, or fewer in a trace with top_k): `request`, `anchor`,
    `num_nodes` int64 [S] and `has_q` bool [S]; `tokens`, `parents` int64 [N]; `scores` float32 [N + S, W]; `q` float32
    [P, W], as in `DraftTree`, of the steps that have it; `ids` int32 [N + S, W] with top_k; `text` and `text_length`
    int64.
    """
    steps = trace.steps
    width = max((step.scores.shape[1] for step in steps), default=0)
    tensors = {
        "request": _ints(step.request for step in steps),
        "anchor": _ints(step.anchor for step in steps),
        "num_nodes": _ints(len(step.tree) for step in steps),
        "has_q": torch.tensor([step.tree.q is not None for step in steps], dtype=torch.bool),
        "tokens": _ints(token for step in steps for token in step.tree.tokens),
        "parents": _ints(parent for step in steps for parent in step.tree.parents),
        "scores": _stack([step.scores for step in steps], width, -torch.inf),
        "text": _ints(token for text in trace.texts for token in text),
        "text_length": _ints(map(len, trace.texts)),
    }
    if drawn := [step.tree.q for step in steps if step.tree.q is not None]:
        tensors["q"] = _stack(drawn, width, 0.0)
    if ids := [step.ids for step in steps if step.ids is not None]:
        tensors["ids"] = _stack(ids, width, NO_TOKEN)
    metadata = {"schema": SCHEMA, "version": VERSION, "info": json.dumps(asdict(trace.info)),
                "seeds": json.dumps(list(trace.seeds))}  # fmt: skip
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata)


def load_trace(path: str | Path) -> Trace:
    """Reads what `save_trace` wrote.

    Raises:
        FileNotFoundError: if there is no such file.
        ConfigError: if it is broken, or holds something else or another version.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
    except SafetensorError as error:
        raise ConfigError(f"{path} is not a whole safetensors file: {error}. Record the trace again.") from error
    if metadata.get("schema") != SCHEMA:
        raise ConfigError(f"{path} has schema {metadata.get('schema')!r}, not {SCHEMA!r}. Give a saved trace.")
    if metadata.get("version") != VERSION:
        raise ConfigError(
            f"{path} has version {metadata.get('version')!r} of {SCHEMA}, and this code reads {VERSION!r}. Record it "
            "anew, or read it with the code that wrote it."
        )
    try:
        return _assembled(tensors, TraceInfo(**json.loads(metadata["info"])), json.loads(metadata["seeds"]))
    except (SpecdecError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"{path} holds parts that do not fit together: {error}. Record the trace again.") from error


def _assembled(tensors: dict[str, Tensor], info: TraceInfo, seeds: list[int]) -> Trace:
    nodes, has_q = tensors["num_nodes"].tolist(), tensors["has_q"].tolist()
    if tensors.keys() - {"ids"} != REQUIRED | ({"q"} if any(has_q) else set()):
        raise ValueError(f"its tensors are {sorted(tensors)}")
    rows = [n + 1 for n in nodes]
    scores = torch.split(tensors["scores"], rows)
    ids = torch.split(tensors["ids"], rows) if "ids" in tensors else [None] * len(nodes)
    tokens, parents = ([tuple(part.tolist()) for part in torch.split(tensors[name], nodes)] for name in TREES)
    with_q = [len(TreeShape(p).inner) for p, has in zip(parents, has_q, strict=True) if has]
    q = iter(torch.split(tensors["q"], with_q) if with_q else ())
    trees = [DraftTree(t, p, next(q) if has else None) for t, p, has in zip(tokens, parents, has_q, strict=True)]
    columns = zip(tensors["request"].tolist(), tensors["anchor"].tolist(), trees, scores, ids, strict=True)
    texts = [text.tolist() for text in torch.split(tensors["text"], tensors["text_length"].tolist())]
    if len(texts) != len(seeds) or any(not 0 <= request < len(seeds) for request in tensors["request"].tolist()):
        raise ValueError(f"{len(texts)} texts and {len(seeds)} seeds do not fit the steps")
    return Trace(info, [TraceStep(*column) for column in columns], seeds, texts)


def _ints(values: Iterable[int]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.int64)


def _stack(rows: Sequence[Tensor], width: int, fill: float) -> Tensor:
    return torch.cat([pad(each, (0, width - each.shape[1]), value=fill) for each in rows])
