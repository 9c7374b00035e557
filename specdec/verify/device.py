"""Rules on the GPU: a whole batch of drafts is judged where its logits are, and the host waits once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from specdec.errors import NumericalError, SpecdecError
from specdec.sampling import LogitsTransform
from specdec.verify.base import Rule, StepKey, Verdict
from specdec.verify.tree import DraftTree


def kernel_of(rule: Rule) -> str | None:
    """The kernel that the rule's own class declares, or None."""
    kernel: str | None = vars(type(rule)).get("kernel")
    return kernel


def can_judge(rule: Rule, trees: Sequence[DraftTree], transforms: Sequence[LogitsTransform]) -> bool:
    """Whether there is a kernel for the rule, these drafts, and all that is done to the logits before."""
    drafted = [tree.q is not None for tree in trees if len(tree)]
    return (
        kernel_of(rule) is not None
        and not any(transform.edits for transform in transforms)
        and (all(drafted) or not any(drafted))
        and (rule.trees or all(tree.is_chain for tree in trees))
    )


def judge_batch(
    rule: Rule,
    trees: Sequence[DraftTree],
    logits: Sequence[Tensor],
    transforms: Sequence[LogitsTransform],
    keys: Sequence[StepKey],
) -> list[Verdict | NumericalError]:
    """What `rule.accept` says, or why it cannot, for every sequence.

    Args:
        rule: one that `can_judge` accepts.
        trees: one draft per sequence.
        logits: float [N_s + 1, V], one per sequence, on the device.
        transforms: of the sequences' logits: temperature and filters.
        keys: one per sequence.
    """
    from specdec.kernels.filters.triton import filtered
    from specdec.kernels.verdicts.triton import Drafts, judge

    kernel = kernel_of(rule)
    if kernel is None:
        raise SpecdecError(f"Rule {rule.name!r} has no GPU kernel of its own. Ask `can_judge` first.")
    rows = torch.cat(list(logits))
    settings = [transform.params for transform, part in zip(transforms, logits, strict=True) for _ in part]
    if kernel != "greedy":
        rows = filtered(rows, [s.temperature for s in settings], [s.top_k for s in settings],
                        [s.top_p for s in settings], [s.min_p for s in settings])  # fmt: skip
    drafts = Drafts(
        tokens=[token for tree in trees for token in tree.tokens],
        parents=[parent for tree in trees for parent in tree.parents],
        depths=[depth for tree in trees for depth in tree.depths],
        counts=[len(tree) for tree in trees],
        sources=[key.random for key in keys],
        anchors=[key.anchor for key in keys],
        temperatures=[1.0] * len(trees),
    )
    q = [tree.q for tree in trees if tree.q is not None and len(tree)]
    found = judge(kernel, rows, drafts, torch.cat(q).log() if q else None)
    joined = torch.cat([found.path, found.lengths, found.next_tokens, found.largest.view(torch.int32)]).cpu()
    path, lengths, tokens, largest = torch.split(joined, [len(found.path), len(trees), len(trees), len(rows)])
    values = largest.view(torch.float32).tolist()
    verdicts: list[Verdict | NumericalError] = []
    node = row = 0
    for tree, transform, length, token in zip(trees, transforms, lengths.tolist(), tokens.tolist(), strict=True):
        try:
            transform.require_mass(values[row : row + len(tree) + 1])
        except NumericalError as error:
            verdicts.append(error)
        else:
            verdicts.append(Verdict(tuple(path[node : node + length].tolist()), token))
        node, row = node + len(tree), row + len(tree) + 1
    return verdicts
