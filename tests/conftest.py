"""What all tests share: determinism, no network, and the embedded model, loaded once per worker."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # triton looks at it when it is imported

from hypothesis import settings

from specdec.models.loading import LoadedModel, load
from tests.asked import leave_out
from tests.browsing import chromium  # noqa: F401 - a fixture of all tests of pages
from tests.fewer import thin
from tests.skips import pytest_addoption, pytest_runtest_makereport, pytest_terminal_summary  # noqa: F401 - hooks

settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True)
settings.load_profile("ci")


@pytest.hookimpl(tryfirst=True)  # before `-m` looks at the marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Workers collect for themselves and must find the same names: none may hold an address."""
    if named := [item.nodeid for item in items if " at 0x" in item.nodeid]:
        raise pytest.UsageError(f"{named[0]} has another name in every process. Give its parameters ids.")
    leave_out(config, items)
    thin(items)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Two test workers share two cores."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def embedded() -> LoadedModel:
    """SmolLM2-135M-Instruct in float32."""
    return load()
