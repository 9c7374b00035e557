"""Heads in folders: config.json beside safetensors weights, in our own layout or a published one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from specdec.errors import ConfigError, UnsupportedModelError
from specdec.foreign import foreign
from specdec.heads.base import Head
from specdec.heads.block import BlockHead
from specdec.heads.config import TargetSizes
from specdec.heads.eagle1 import Eagle1Head
from specdec.heads.eagle3 import Eagle3Head
from specdec.heads.formats import FORMATS
from specdec.heads.formats.base import Format, Given, Numbering, Parts, Unreadable
from specdec.heads.formats.own import OwnFormat, packed
from specdec.heads.medusa import MedusaHead
from specdec.heads.mtp import MtpHead
from specdec.models.base import CausalLM
from specdec.models.files import WRITE_AGAIN, json_file, opened, refusal, weight_files
from specdec.models.plausible import check_config
from specdec.models.tables import safetensors_table
from specdec.places import write

ARCHITECTURES: dict[str, type[Head]] = {
    "block": BlockHead,
    "eagle1": Eagle1Head,
    "eagle3": Eagle3Head,
    "medusa": MedusaHead,
    "mtp": MtpHead,
}
Weights = Literal["float32", "bfloat16", "int8"]
CONFIG = "config.json"
MEND = "Give the files of a trained head (docs/heads.md), or copy them again."


def load_head(
    path: str | Path,
    target: CausalLM | TargetSizes | None = None,
    *,
    numbering: Numbering | None = None,
    pickled: str | None = None,
) -> Head:
    """The head in a folder, in float32, ready to be bound to its target.

    Args:
        path: folder with config.json and weights, of any layout of `specdec.heads.formats`.
        target: the model that it is to draft for. A head that does not fit is refused. Some layouts do not tell the
            target's sizes; they cannot be read without.
        numbering: how the file counts the layers that it taps, if not as its layout does.
        pickled: name of a `.bin` or `.pt` file in the folder to read the weights from. Such a file is never looked for,
            and it is read without running code (torch's `weights_only`).

    Raises:
        UnsupportedModelError: if files are missing, broken or refused, or the head does not fit the target.
    """
    folder = Path(path)
    sizes = None if target is None else TargetSizes.of(target)
    form, parts = read_parts(folder, sizes, numbering, pickled)
    reason = parts.config.why_not(sizes) if sizes is not None else None
    if reason is not None:
        raise refusal(folder, f"it cannot draft for this target: {reason}", "Choose the target that it is made for.")
    return build(folder, form, parts)


def build(folder: Path, form: Format, parts: Parts) -> Head:
    """The head that `read_parts` found, once all its weights are there, finite and of the right shape."""
    with _named(folder, form.name):
        head = _built(parts)
    head.quantized = parts.quantized
    return head


def read_parts(
    folder: Path, target: TargetSizes | None, numbering: Numbering | None = None, pickled: str | None = None
) -> tuple[Format, Parts]:
    """A folder's layout, and what is in it, before anything is compared with an architecture."""
    settings = json_file(folder / CONFIG)
    check_config(settings, folder / CONFIG)
    form = next((each for each in FORMATS if each.owns(settings)), None)
    if form is None:
        names = ", ".join(each.name for each in FORMATS)
        raise refusal(folder, f"its config.json is of no layout that is known ({names})", MEND)
    tensors = _tensors(folder, form, pickled)
    with _named(folder, form.name):
        return form, form.read(Given(settings, tensors, target, numbering))


def save_head(
    head: Head,
    path: str | Path,
    format: str = "specdec",
    weights: Weights = "float32",
    note: Mapping[str, str] | None = None,
) -> None:
    """Writes a folder that `load_head` reads. What the head shares with its target is written where the layout asks
    for it.

    Args:
        head: the head.
        path: the folder; it is made, and files of the same names are replaced.
        format: name of a layout.
        weights: form of the numbers; int8 has a scale for each row of a matrix, and is our own layout's alone.
        note: what people should know of it; our own layout keeps it.

    Raises:
        ConfigError: if the layout cannot hold such a head, or is not known.
        UnwritableError: if a file cannot be written.
    """
    form = next((each for each in FORMATS if each.name == format), None)
    if form is None:
        raise ConfigError(f"Unknown format {format!r}. Give one of {', '.join(each.name for each in FORMATS)}.")
    if weights not in get_args(Weights):
        raise ConfigError(f"Unknown form of weights {weights!r}. Give one of {', '.join(get_args(Weights))}.")
    if weights == "int8" and not isinstance(form, OwnFormat):
        raise ConfigError(f"The layout {format!r} holds no int8 weights. Give float32 or bfloat16, or our own layout.")
    try:
        settings, tensors = form.write(head)
    except Unreadable as error:
        raise ConfigError(f"A head cannot be written as {format!r}: {error}.") from error
    settings |= {"note": dict(note)} if note and isinstance(form, OwnFormat) else {}
    if "torch_dtype" in settings:
        settings["torch_dtype"] = weights
    folder = Path(path)
    write(folder / form.weights, save(_in_form(tensors, weights), {"format": "pt"}))
    write(folder / CONFIG, json.dumps(settings, indent=1) + "\n")


def _in_form(tensors: Mapping[str, Tensor], weights: Weights) -> dict[str, Tensor]:
    """Each tensor with memory of its own, as safetensors wants it. Vectors stay float32."""
    if weights == "int8":
        tensors = packed(tensors)
    found = {}
    for name, tensor in tensors.items():
        floats = tensor.is_floating_point()
        dtype = torch.bfloat16 if floats and weights == "bfloat16" and tensor.dim() > 1 else tensor.dtype
        found[name] = tensor.detach().cpu().to(torch.float32 if floats and dtype != torch.bfloat16 else dtype)
    return {name: tensor.contiguous().clone() for name, tensor in found.items()}


def _tensors(folder: Path, form: Format, pickled: str | None) -> dict[str, Tensor]:
    """Every tensor beside config.json. A file's header is checked against its bytes before a tensor is made."""
    if pickled is not None:
        return _unpickled(folder / Path(pickled).name)
    found: dict[str, Tensor] = {}
    for file in weight_files(folder, form.weights if (folder / form.weights).exists() else None):
        safetensors_table(file)
        with foreign(UnsupportedModelError, f"Cannot read {file}", WRITE_AGAIN):
            found |= load_file(file)
    return found


def _unpickled(path: Path) -> dict[str, Tensor]:
    with opened(path):
        pass
    with foreign(UnsupportedModelError, f"Cannot read {path}", "Convert it to safetensors."):
        found = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(found, dict) or not all(isinstance(each, Tensor) for each in found.values()):
        raise refusal(path, "it does not map names to tensors", WRITE_AGAIN)
    return dict(found)


def _built(parts: Parts) -> Head:
    """The module with its weights, once all of them are there and of the right shape."""
    config = parts.config
    if config.architecture not in ARCHITECTURES:
        raise Unreadable(f"its architecture is {config.architecture!r}, not one of {', '.join(ARCHITECTURES)}")
    cls = ARCHITECTURES[config.architecture]
    with torch.device("meta"):  # nothing is allocated that the file does not hold
        shapes = {name: weight.shape for name, weight in cls(config, parts.draft_ids).named_parameters()}
    _check_weights(shapes, parts.weights)
    head = cls(config, parts.draft_ids)
    head.load_state_dict({name: parts.weights[name].float() for name in shapes}, strict=False)
    return head.eval()


def _check_weights(shapes: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    if missing := sorted(set(shapes) - set(weights)):
        raise Unreadable(f"the tensor {missing[0]!r} is missing, and {len(missing) - 1} more")
    if strange := sorted(set(weights) - set(shapes)):
        raise Unreadable(f"the tensor {strange[0]!r} has no place in such a head, and {len(strange) - 1} more")
    for name, shape in shapes.items():
        weight = weights[name]
        if weight.shape != shape:
            raise Unreadable(f"{name} has the shape {list(weight.shape)}, and its config.json asks for {list(shape)}")
        if not weight.is_floating_point():
            raise Unreadable(f"{name} holds {weight.dtype}, not floats")
        if not bool(torch.isfinite(weight).all()):
            raise Unreadable(f"{name} holds NaN or infinite numbers")


@contextmanager
def _named(folder: Path, form: str) -> Iterator[None]:
    """Errors of the block are refusals of this folder."""
    try:
        with foreign(UnsupportedModelError, f"Cannot read {folder} as a head of the layout {form!r}", MEND):
            yield
    except (Unreadable, ConfigError) as error:
        raise refusal(folder, f"as a head of the layout {form!r}, {str(error).rstrip('.')}", MEND) from error
