"""Memory for weights: private to the process and marked for large pages, which the system gives to no other."""

from __future__ import annotations

import mmap
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from specdec.kernels.cpu.memory import AREA, HUGE_PAGE, LINE, Areas, huge, in_huge_pages

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks the Linux kernel")


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


def resident() -> int:
    """Bytes of this process in memory."""
    return mmap.PAGESIZE * int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])


@linux
def test_memory_is_such_as_large_pages_are_given_to() -> None:
    """To shared memory most systems give none, whatever it is marked with."""
    permissions, flags = mapping(huge(3 * HUGE_PAGE))
    assert permissions == "rw-p"
    assert "hg" in flags.split()


def test_a_copy_holds_the_same_and_begins_on_a_line_of_the_cache() -> None:
    for numbers in (torch.arange(7, dtype=torch.int64), torch.randn(3, 5).to(torch.bfloat16).T, torch.empty(0, 4)):
        copy = in_huge_pages(numbers)
        assert torch.equal(copy, numbers)
        assert copy.dtype == numbers.dtype
        assert copy.data_ptr() % LINE == 0


def test_pieces_share_large_pages_and_no_byte() -> None:
    """121 small matrices in pages of their own would take 242 MB of the 4-bit model's 96."""
    areas = Areas()
    sizes = [1, 64, 65, 300_000, AREA // 2, AREA // 2 - (1 << 20), 5 << 20, AREA // 2 + 1, AREA + 3, 7]
    pieces = [areas.take(size) for size in sizes]
    for value, (piece, size) in enumerate(zip(pieces, sizes, strict=True), 1):
        assert len(piece) == size
        assert not piece.any()
        piece.fill_(value)
    assert all(bool((piece == value).all()) for value, piece in enumerate(pieces, 1))
    small = [areas.take(1000) for _ in range(100)]
    assert max(each.data_ptr() for each in small) - min(each.data_ptr() for each in small) == 99 * 1024


@linux
def test_an_area_is_given_back_with_its_last_piece() -> None:
    areas = Areas()
    before = resident()
    for _ in range(30):
        areas.take(10 << 20).fill_(1)
    assert resident() - before < 3 * AREA
