"""JSON schemas against the JSON Schema Test Suite, as it comes with the source of `jsonschema`.

A text keeps to a grammar if every token is allowed where it stands, and then the end. The suite says of each text
whether its schema allows it. Nothing that it forbids may be written. What it allows and the grammar does not is listed
here.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from specdec import Grammar, InvalidRequestError
from specdec.sampling.compiling import GrammarCompiler
from specdec.sampling.matching import GrammarConstraint
from tests.toytokenizers import byte_level

pytest.importorskip("llguidance", reason="needs the extra 'grammar'")

REFUSED = {
    "additionalProperties": 2, "allOf": 2, "anyOf": 1, "boolean_schema": 1, "contains": 7, "defs": 1,
    "dependentRequired": 4, "dependentSchemas": 4, "dynamicRef": 20, "format": 9, "if-then-else": 10, "maxContains": 4,
    "maxItems": 1, "maxLength": 1, "maxProperties": 1, "minContains": 8, "minItems": 1, "minLength": 1,
    "minProperties": 1, "multipleOf": 1, "not": 9, "oneOf": 9, "patternProperties": 3, "propertyNames": 6, "ref": 6,
    "refRemote": 15, "unevaluatedItems": 27, "unevaluatedProperties": 41, "uniqueItems": 6, "vocabulary": 2,
}  # fmt: skip
"""File of the suite → schemas that are refused: with keywords that no grammar can follow, with parts that lie on
another machine, that no text can satisfy, with limits that are written as 2.0."""
STRICTER = {"allOf": 2, "const": 5, "enum": 4, "format": 10, "type": 1}
"""File → texts that are allowed and cannot be written. Keys have one order (allOf, const). A number has one spelling:
not 0.0 for 0 (const, enum, type). A format is kept to, where the suite has it only annotate."""


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its files, out of the package index."""
    folder = tmp_path_factory.mktemp("suite")
    wanted = f"jsonschema=={version('jsonschema')}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "jsonschema", wanted]
    if (done := subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)).returncode:
        pytest.skip(f"needs the package index: {done.stderr[-200:]}")
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        archive.extractall(folder, filter="data")
    return next(folder.glob("*/json/tests/draft2020-12"))


def cases(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted(folder.glob("*.json")):
        for case in json.loads(path.read_text(encoding="utf-8")):
            yield path.stem, case


@pytest.mark.slow
def test_nothing_is_written_that_a_schema_forbids(suite: Path) -> None:
    tokenizer = byte_level()
    end = tokenizer.eos_token_id
    compiler = GrammarCompiler(tokenizer, len(tokenizer), (end,))

    def keeps(constraint: GrammarConstraint, data: Any) -> bool:
        for token in [*tokenizer.encode(json.dumps(data, ensure_ascii=False)), end]:
            if not bool(constraint.masks((), ())[-1][token]):
                return False
            constraint.advance(token)
        return True

    refused, stricter, right = Counter[str](), Counter[str](), 0
    for name, case in cases(suite):
        try:
            constraint = compiler.compile(Grammar.json(json.dumps(case["schema"])))
        except InvalidRequestError:
            refused[name] += 1
            continue
        for one in case["tests"]:
            written = keeps(constraint.fork(), one["data"])
            assert one["valid"] or not written, (name, case["description"], one["description"])
            stricter[name] += one["valid"] and not written
            right += one["valid"] == written
    assert refused == REFUSED
    assert +stricter == STRICTER
    assert right > 550
