"""LoRA adapters: a folder with low-rank changes to another model's weights, which are merged into them at load."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from specdec.checks import shown
from specdec.errors import UnsupportedModelError
from specdec.foreign import foreign
from specdec.models.files import json_file, refusal
from specdec.models.tables import safetensors_table

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
MODELS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
REMEDY = "Merge the adapter with peft yourself, and give the folder of the merged model."
PATTERNS = ("target_modules", "exclude_modules", "layers_pattern", "rank_pattern", "alpha_pattern", "target_parameters")
"""Fields whose texts are matched with the names of modules as regular expressions."""
LONGEST_PATTERN = 2000
REPEATED = re.compile(r"\)\s*[*+{]")
"""A group that is repeated: matching one can take time without end."""
APART = {
    "megatron_config": "names Python modules to import, which is never done",
    "alora_invocation_tokens": "acts in some places of a text only, which merged weights cannot",
    "arrow_config": "acts in some places of a text only, which merged weights cannot",
    "layer_replication": "makes a model of other layers",
}
"""Field that no merged model can honour → why, in words that follow it."""


@dataclass(frozen=True)
class Adapter:
    """What a folder says of its adapter.

    Args:
        folder: where it is.
        base: the model that it changes, as for `specdec.models.loading.load`; None if it does not say.
        revision: of the base on the hub, or None.
    """

    folder: Path
    base: str | None
    revision: str | None

    @property
    def has_tokenizer(self) -> bool:
        """Whether a tokenizer came with it."""
        return (self.folder / "tokenizer_config.json").is_file()


def adapter_in(folder: Path) -> Adapter | None:
    """The adapter in a folder, checked as far as it can be without its base; None if there is none.

    Raises:
        UnsupportedModelError: if it is no LoRA, its weights are missing or pickled, the folder holds a model besides,
            or peft is not installed.
    """
    path = folder / CONFIG
    if not path.is_file():
        return None
    config = json_file(path)
    if model := next((name for name in MODELS if (folder / name).exists()), None):
        raise refusal(path, f"the folder also holds a model ({model}), and which is meant is not clear",
                      "Move the adapter to a folder of its own, or remove its adapter_config.json.")  # fmt: skip
    if config.get("peft_type") != "LORA":
        raise refusal(path, f"its peft_type is {shown(config.get('peft_type'))}, and only LORA is merged", REMEDY)
    for field, reason in APART.items():
        if config.get(field):
            raise refusal(path, f"{field} = {shown(config[field])} {reason}", REMEDY)
    for pattern in _patterns(config):
        if len(pattern) > LONGEST_PATTERN or REPEATED.search(pattern):
            raise refusal(path, f"the pattern {shown(pattern)} could take for ever to match", REMEDY)
    if not (folder / WEIGHTS).is_file():
        raise refusal(path, f"there is no {WEIGHTS} beside it, and other forms of weights are not read", REMEDY)
    if find_spec("peft") is None:
        raise refusal(
            path, "it is a LoRA adapter, and peft, which merges them, is not installed",
            f"Run `pip install 'specdec-lab[lora]'`. {REMEDY}")  # fmt: skip
    base, revision = config.get("base_model_name_or_path"), config.get("revision")
    return Adapter(folder, base if isinstance(base, str) and base else None, revision or None)


def _patterns(config: Mapping[str, Any]) -> Iterator[str]:
    for field in PATTERNS:
        value = config.get(field)
        texts = [value] if isinstance(value, str) else value if isinstance(value, list | dict) else ()
        yield from (text for text in texts if isinstance(text, str))


def merged(module: PreTrainedModel, adapter: Adapter, name: str) -> PreTrainedModel:
    """The base model with the adapter's changes added to its weights; `module` is changed.

    Raises:
        UnsupportedModelError: if they do not fit each other: other shapes, tensors that are missing or left over.
    """
    stored = set(safetensors_table(adapter.folder / WEIGHTS))
    with foreign(UnsupportedModelError, f"Cannot merge {name!r} into its base model", REMEDY):
        from peft import PeftModel, get_peft_model_state_dict

        adapted = PeftModel.from_pretrained(
            module, str(adapter.folder), is_trainable=False, torch_device="cpu", local_files_only=True
        )
        wanted = set(get_peft_model_state_dict(adapted, save_embedding_layers=False))
        known = wanted | set(get_peft_model_state_dict(adapted, save_embedding_layers=True))
        if missing := sorted(wanted - stored):
            raise ValueError(f"{WEIGHTS} lacks {missing[0]}.")
        if left_over := sorted(stored - known):
            raise ValueError(f"The base model has no place for {left_over[0]}.")
        plain: PreTrainedModel = adapted.merge_and_unload(safe_merge=True)
    return plain.eval()
