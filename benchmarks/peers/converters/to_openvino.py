"""Exports a transformers folder to OpenVINO's intermediate representation, or compresses one that is there:
to_openvino.py SOURCE TARGET [int8|int4].
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

MODEL = "openvino_model"


def convert(source: str, target: str) -> None:
    """Writes model and tokenizer into the folder `target`."""
    from optimum.exporters.openvino import main_export

    main_export(source, target, task="text-generation-with-past")


def compress(source: str, target: str, dtype: str) -> None:
    """Writes a representation with weights in 8 or 4 bits; embedding and head keep 8 then."""
    import nncf
    import openvino

    modes = nncf.CompressWeightsMode
    options = {"int8": {"mode": modes.INT8_ASYM}, "int4": {"mode": modes.INT4_ASYM, "group_size": 32, "ratio": 1.0}}
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(f"{MODEL}.*"))
    model = openvino.Core().read_model(Path(source) / f"{MODEL}.xml")
    openvino.save_model(nncf.compress_weights(model, **options[dtype]), Path(target) / f"{MODEL}.xml")


if __name__ == "__main__":
    (compress if len(sys.argv) > 3 else convert)(*sys.argv[1:])
