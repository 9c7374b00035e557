"""Memory for weights: private to the process and marked for large pages, which the system gives to no other."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from specdec.kernels.cpu.memory import HUGE_PAGE, huge, in_huge_pages


def mapping(tensor: Tensor) -> tuple[str, str]:
    """Of the mapping that a tensor begins in: its permissions and its flags, of the Linux kernel."""
    address, permissions, inside = tensor.data_ptr(), "", False
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        first, _, rest = line.partition(" ")
        if "-" in first and not first.endswith(":"):
            start, end = (int(each, 16) for each in first.split("-"))
            inside, permissions = start <= address < end, rest.split()[0]
        elif inside and first == "VmFlags:":
            return permissions, rest
    raise AssertionError("no mapping holds it")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks the Linux kernel")
def test_memory_is_such_as_large_pages_are_given_to() -> None:
    """To shared memory most systems give none, whatever it is marked with."""
    permissions, flags = mapping(huge(3 * HUGE_PAGE))
    assert permissions == "rw-p"
    assert "hg" in flags.split()


def test_a_copy_holds_the_same_and_begins_on_a_border() -> None:
    for numbers in (torch.arange(7, dtype=torch.int64), torch.randn(3, 5).to(torch.bfloat16).T, torch.empty(0, 4)):
        copy = in_huge_pages(numbers)
        assert torch.equal(copy, numbers)
        assert copy.dtype == numbers.dtype
        assert copy.data_ptr() % HUGE_PAGE == 0
    assert not huge(100).any()
