"""Any Hugging Face causal LM, unchanged, over our paged cache and our attention."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Collection, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from specdec.cache import KVPool
from specdec.errors import UnsupportedModelError
from specdec.kernels.attention.native import kernels_for
from specdec.kernels.device import triton_runs
from specdec.models.base import PassOutput, Wants
from specdec.models.batch import RaggedBatch
from specdec.models.early_exit import check_exit, with_layers
from specdec.models.packing import make_row_invariant
from specdec.models.paged_attention import pass_on, run
from specdec.models.probe import probe
from specdec.models.sublayers import check_skips, without_sublayers
from specdec.models.traits import max_context, size_of


class TransformersModel:
    """Runs a `PreTrainedModel` through transformers' attention interface; see `CausalLM` for the methods.

    At construction a dozen tokens are run through our attention and through the model's own. An architecture that
    bypasses the interface, or needs something of its attention that ours does not do, is refused there.

    On a CPU attention runs on the native kernels, if they are there. With `kind` the module's linear layers are
    replaced by packed ones, so that the bits of a row's logits no longer depend on the rows beside it; where that
    cannot be promised (experts in bare parameters), a warning says so.

    Args:
        module: the model, in evaluation mode, on its device. Its attention implementation is changed in place.
        name: what to call it in messages.
        kind: form of the packed weights, a name of `specdec.kernels.linear.KINDS`; needs the native kernels.
        kv_dtype: what the cache holds; the module's own dtype if left out. Other than that needs the native kernels.

    Raises:
        UnsupportedModelError: if the architecture cannot run under our attention.
    """

    def __init__(
        self,
        module: PreTrainedModel,
        name: str = "",
        kind: str | None = None,
        kv_dtype: torch.dtype | None = None,
    ) -> None:
        self.module = module.eval()
        self.name = name or type(module).__name__
        self.kv_layout, self.vocab_size = probe(module, self.name)
        self.hidden_size = size_of(module, "hidden_size")
        self.max_context = max_context(module)
        layout = self.kv_layout
        kernels = kernels_for(layout.head_dim, kv_dtype or layout.dtype, layout.device)
        self._pass = pass_on(layout.device, kernels)
        if kernels is not None:
            self.kv_layout = replace(layout, dtype=kv_dtype or layout.dtype, heads_first=True)
            if kind is not None:
                self._warn_of(make_row_invariant(module, kind))
        elif kind is not None or kv_dtype not in (None, layout.dtype):
            raise UnsupportedModelError(
                f"{self.name}: weights as {kind} and a cache of {kv_dtype} need the native CPU kernels, which cannot "
                f"run here (device {layout.device}, heads of {layout.head_dim}). Use dtype='float32'."
            )

    @property
    def judges_on_device(self) -> bool:
        """See `CausalLM.judges_on_device`."""
        return triton_runs(self.kv_layout.device)

    @torch.inference_mode()
    def run(self, batch: RaggedBatch, pool: KVPool, wants: Wants = Wants()) -> PassOutput:  # noqa: B008 - frozen
        """See `CausalLM.run`. The head is the model's own, and makes all logits whatever is wanted."""
        wants.check(self.name, self.kv_layout.num_layers)
        batch = batch.on(self.kv_layout.device)
        logits, hidden = run(self.module, batch, self._pass(batch, pool), wants.hidden)
        return PassOutput(logits, None, hidden)

    @torch.inference_mode()
    def embed(self, tokens: Sequence[int]) -> Tensor:
        """See `CausalLM.embed`: what the module's own embedding gives, scaled if it scales.

        Raises:
            UnsupportedModelError: if that is not as wide as the stream, into which it is projected.
        """
        ids = torch.tensor(tokens, dtype=torch.int64, device=self.kv_layout.device)
        embedded: Tensor = self.module.get_input_embeddings()(ids)
        if embedded.shape[-1] != self.hidden_size:
            raise UnsupportedModelError(
                f"{self.name} has embeddings of width {embedded.shape[-1]} and a stream of {self.hidden_size}. Use a "
                "drafter that needs no embeddings, or another model."
            )
        return embedded.float()

    def unembed(self, tokens: Sequence[int]) -> Tensor:
        """See `CausalLM.unembed`."""
        head = self.module.get_output_embeddings()
        rows = getattr(head, "weight", None)
        if not isinstance(rows, Tensor) or rows.shape != (self.vocab_size, self.hidden_size):
            raise UnsupportedModelError(
                f"{self.name} has no head of {self.vocab_size} rows of width {self.hidden_size}. Use a drafter that "
                "needs none, or another model."
            )
        return rows.detach()[torch.tensor(tokens, dtype=torch.int64, device=rows.device)].float()

    def _warn_of(self, unpacked: list[str]) -> None:
        if unpacked:
            warnings.warn(
                f"{self.name} keeps {len(unpacked)} weight matrices outside of linear layers ({unpacked[0]}). Products "
                "with them are torch's: a token's bits may depend on the rows beside it, and greedy text may differ "
                "between plain and speculative decoding where two tokens are almost tied.",
                RuntimeWarning,
                stacklevel=3,
            )

    def truncated(self, num_layers: int) -> TransformersModel:
        """See `CausalLM.truncated`. Weights are shared and this model stays as it is."""
        check_exit(self.name, self.kv_layout.num_layers, num_layers)
        clone = copy.copy(self)
        clone.name = f"{self.name}[:{num_layers}]"
        clone.module = with_layers(self.module, num_layers)
        clone.kv_layout = replace(self.kv_layout, num_layers=num_layers)
        return clone

    def without(self, attention: Collection[int], mlp: Collection[int]) -> TransformersModel:
        """See `CausalLM.without`. Weights are shared and this model stays as it is."""
        check_skips(self.name, self.kv_layout.num_layers, attention, mlp)
        clone = copy.copy(self)
        clone.name = f"{self.name} without {len(attention) + len(mlp)} sublayers"
        clone.module = without_sublayers(self.module, attention, mlp)
        return clone
