"""What every trained head has: a configuration, the tokens that it knows, and what it shares with the frozen target."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional

from specdec.checks import shown
from specdec.errors import ConfigError
from specdec.heads.config import HeadConfig
from specdec.models.base import CausalLM


class Head(nn.Module):
    """A module that guesses the target's next tokens from the target's hidden states.

    `draft_ids` int64 [Vd] lists the target's ids of the tokens that it knows; `draft_index` int64 [V] is their place in
    that list, and Vd for every other token.

    Args:
        config: its sizes.
        draft_ids: int64 [Vd], the target's ids of the tokens that it knows, increasing. Needed if Vd < V.

    Raises:
        ConfigError: if they are not that.
    """

    quantized: str | None = None
    """Form in which its file holds its matrices, if it is not floats."""
    draft_ids: Tensor
    draft_index: Tensor
    embedding: Tensor | None
    output: Tensor | None

    def __init__(self, config: HeadConfig, draft_ids: Tensor | None = None) -> None:
        super().__init__()
        self.config = config
        ids = checked_ids(config, draft_ids)
        self.register_buffer("draft_ids", ids)
        index = torch.full((config.vocab_size,), config.draft_vocab_size)
        index = index.scatter(0, ids.to(index.device), torch.arange(config.draft_vocab_size))
        self.register_buffer("draft_index", index, persistent=False)
        self.register_buffer("embedding", None, persistent=False)
        self.register_buffer("output", None, persistent=False)
        if config.own_embedding:
            self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        if config.own_output:
            self.lm_head = nn.Linear(config.hidden_size, config.draft_vocab_size, bias=False)

    def bind(self, embedding: Tensor, output: Tensor) -> None:
        """Shows it the target's embedding and output rows, [V, h] both. They stay the target's: no parameters, and in
        no file. A head that has its own does not look at them.

        Raises:
            ConfigError: if it needs one that is of another shape.
        """
        shape = (self.config.vocab_size, self.config.hidden_size)
        for name, its, own in (
            ("embedding", embedding, self.config.own_embedding),
            ("output", output, self.config.own_output),
        ):
            if not own and its.shape != shape:
                raise ConfigError(
                    f"The head shares the target's {name} and needs {list(shape)}, got {list(its.shape)}. Choose the "
                    f"target that it was trained for, or a head with own_{name}."
                )
        if not self.config.own_embedding:
            self.embedding = embedding.detach()
        if not self.config.own_output:
            whole = self.config.draft_vocab_size == len(output)
            self.output = output.detach() if whole else output.detach()[self.draft_ids.to(output.device)]

    @property
    def dtype(self) -> torch.dtype:
        """Of its parameters, and of the stream between them."""
        return next(self.parameters()).dtype

    def embed(self, tokens: Tensor) -> Tensor:
        """Embeddings of the target's ids, int64 [...] → [..., h]."""
        if self.config.own_embedding:
            own: Tensor = self.embed_tokens(tokens)
            return own
        return functional.embedding(tokens, bound(self.embedding)).to(self.dtype)

    def vocabulary_logits(self, hidden: Tensor) -> Tensor:
        """[..., h] → logits of the draft vocabulary, [..., Vd]."""
        if self.config.own_output:
            own: Tensor = self.lm_head(hidden)
            return own
        return functional.linear(hidden, bound(self.output).to(hidden.dtype))


class ChainHead(Head):
    """A head that drafts a chain behind a committed token: what training asks of it.

    The *anchor* is the last committed token; row k of its draft, from 0, is of the token at anchor + 1 + k.
    """

    @abstractmethod
    def draft_states(self, taps: Tensor, tokens: Tensor, anchors: Tensor, mask: Tensor, depth: int) -> Tensor:
        """Of many drafts at once, blind to each other, what their logits are made of: [B, A, depth, h].

        Args:
            taps: [B, S, k, H], the target's hidden states at the k tapped boundaries. A draft sees those before its
                anchor.
            tokens: int64 [B, S], the texts. Every row is given the true tokens before its own.
            anchors: int64 [B, A], their positions, from 1.
            mask: bool [B, A]; where it is False there is no anchor, and what is given for it means nothing.
            depth: rows of each draft, at most `HeadConfig.num_drafted`.
        """

    def logits(self, hidden: Tensor, previous: Tensor) -> Tensor:
        """[..., h] and the tokens before, int64 [...] → logits of the draft vocabulary, [..., Vd]."""
        return self.vocabulary_logits(hidden)

    def confidence_logits(self, hidden: Tensor, previous: Tensor) -> Tensor | None:
        """[..., h] and the tokens before, int64 [...] → [...], before the sigmoid; None if there is no such head."""
        return None


def predecessors(tokens: Tensor, anchors: Tensor, mask: Tensor, depth: int) -> Tensor:
    """int64 [B, A, depth], the token before each that is drafted; behind the end of the text, its last one."""
    places = torch.where(mask, anchors, 0)[..., None] + torch.arange(depth, device=anchors.device)
    return at(tokens, places.clamp(max=tokens.shape[1] - 1))


def at(values: Tensor, places: Tensor) -> Tensor:
    """Of [B, S] those at places, int64 [B, …] → the places' shape."""
    return values.gather(1, places.flatten(1)).view(places.shape)


def bound(shared: Tensor | None) -> Tensor:
    """What `bind` has brought. Raises ConfigError if it was not called."""
    if shared is None:
        raise ConfigError(
            "This head shares the target's embedding and output rows. Call bind(embedding, output) first."
        )
    return shared


def output_rows(head: Head, target: CausalLM) -> Tensor:
    """Output rows of the draft vocabulary, float32 [Vd, h]: the head's own, or the target's."""
    if head.config.own_output:
        return head.lm_head.weight.detach().float()
    return target.unembed(head.draft_ids.tolist())


def checked_ids(config: HeadConfig, draft_ids: Tensor | None) -> Tensor:
    """The draft vocabulary, int64 [Vd]; all tokens if none are given.

    Raises:
        ConfigError: if they are not Vd increasing ids of the target.
    """
    size, most = config.draft_vocab_size, config.vocab_size
    if draft_ids is None:
        if size != most:
            raise ConfigError(f"A head that knows {size} of {most} tokens needs draft_ids: which they are.")
        return torch.arange(size)
    ids, floats = draft_ids.detach().to(torch.int64).flatten().clone(), draft_ids.is_floating_point()
    if floats or len(ids) != size or not bool((ids.diff() > 0).all()) or not 0 <= int(ids[0]) <= int(ids[-1]) < most:
        raise ConfigError(
            f"draft_ids must be {size} increasing token ids below {most}; got {len(ids)} of {draft_ids.dtype}: "
            f"{shown(ids[:8].tolist())}. Offsets (d2t) must be read as such."
        )
    return ids
