"""Triton exists for Linux alone: elsewhere its kernels, and the tests of them, are not collected."""

from __future__ import annotations

import importlib.util

NEEDS_TRITON = ["specdec/kernels/*/triton.py", "specdec/kernels/*/triton_weights.py", "specdec/kernels/aot/*",
                "specdec/models/triton.py", "tests/kernels/gpu.py", "tests/kernels/test_triton_*.py",
                "tests/kernels/test_aot.py", "tests/models/test_triton_model.py"]  # fmt: skip

collect_ignore_glob = [] if importlib.util.find_spec("triton") else NEEDS_TRITON
