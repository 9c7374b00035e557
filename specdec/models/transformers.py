"""Any Hugging Face causal LM, unchanged, over our paged cache and our attention."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from specdec.cache.paged import PagedCache
from specdec.errors import UnsupportedModelError
from specdec.models.base import RaggedBatch
from specdec.models.early_exit import with_layers
from specdec.models.paged_attention import PagedPass, run
from specdec.models.probe import max_context, probe


class TransformersModel:
    """Runs a `PreTrainedModel` through transformers' attention interface; see `CausalLM` for the methods.

    At construction a dozen tokens are run through our attention and through the model's own. An architecture that
    bypasses the interface, or needs something of its attention that ours does not do, is refused there.

    Args:
        module: the model, in evaluation mode, on its device. Its attention implementation is changed in place.
        name: what to call it in messages.

    Raises:
        UnsupportedModelError: if the architecture cannot run under our attention.
    """

    def __init__(self, module: PreTrainedModel, name: str = "") -> None:
        self.module = module.eval()
        self.name = name or type(module).__name__
        self.vocab_size = int(module.get_output_embeddings().weight.shape[0])
        self.max_context = max_context(module)
        self.kv_layout = probe(module, self.name)

    @torch.inference_mode()
    def forward(self, batch: RaggedBatch, cache: PagedCache) -> Tensor:
        """See `CausalLM.forward`."""
        return run(self.module, batch, PagedPass(batch, cache))

    def truncated(self, num_layers: int) -> TransformersModel:
        """See `CausalLM.truncated`. Weights are shared and this model stays as it is."""
        total = self.kv_layout.num_layers
        if not 1 <= num_layers < total:
            raise UnsupportedModelError(
                f"{self.name} has {total} layers; an early exit needs 1 to {total - 1} of them, got {num_layers}."
            )
        clone = copy.copy(self)
        clone.name = f"{self.name}[:{num_layers}]"
        clone.module = with_layers(self.module, num_layers)
        clone.kv_layout = replace(self.kv_layout, num_layers=num_layers)
        return clone
