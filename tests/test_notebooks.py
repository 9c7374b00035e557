"""The notebooks run from top to bottom, and are kept as they ran, in few bytes."""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

from tests.pages import ROOT

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
MOST_BYTES = 20_000


def printed(notebook: NotebookNode) -> list[str]:
    """What each cell of code prints."""
    return [
        "".join(output.text for output in cell.outputs if output.get("name") == "stdout")
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_as_it_ran(path: Path) -> None:
    notebook = nbformat.read(path, 4)
    nbformat.validate(notebook)
    assert path.stat().st_size < MOST_BYTES
    assert not any(output.output_type == "error" for cell in notebook.cells for output in cell.get("outputs", []))
    assert "".join(printed(notebook)).count("True") >= 2  # texts are the same


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_prints_again_what_it_printed(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Greedy and seeded texts are the same on every machine of a kind; so is what is said of them."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    kept = nbformat.read(path, 4)
    again = nbformat.read(path, 4)
    NotebookClient(again, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    assert len(printed(again)) == len(printed(kept)) > 2
    assert [text.count("True") for text in printed(again)] == [text.count("True") for text in printed(kept)]
