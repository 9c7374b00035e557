"""Exports a transformers folder to OpenVINO's intermediate representation: to_openvino.py SOURCE TARGET."""

from __future__ import annotations

import sys

from optimum.exporters.openvino import main_export


def convert(source: str, target: str) -> None:
    """Writes model and tokenizer into the folder `target`."""
    main_export(source, target, task="text-generation-with-past")


if __name__ == "__main__":
    convert(*sys.argv[1:])
