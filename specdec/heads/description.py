"""A head in words: what it is, what it reads, what it drafts, and for which target."""

from __future__ import annotations

from specdec.heads.config import HeadConfig


def described(config: HeadConfig) -> dict[str, str]:
    """One line for each thing that its configuration says."""
    return {
        "head": _what(config),
        "for a target of": f"{config.target_layers} layers, width {config.target_hidden_size}, {config.vocab_size} "
        "tokens",
        "reads": _taps(config),
        "drafts": _drafts(config),
        "knows": f"{config.draft_vocab_size} of {config.vocab_size} tokens",
        "shares": _shared(config),
        "made for": f"texts of up to {config.max_positions} tokens",
    }


def _what(config: HeadConfig) -> str:
    if config.architecture == "medusa":
        return f"medusa, {config.medusa_heads} heads of {config.num_layers} blocks"
    flags = ("fc_norm", "norm_before_fc", "norm_before_residual", "norm_output", "qk_norm", "qkv_bias", "o_bias")
    named = [flag for flag in flags if getattr(config, flag)]
    return (
        f"{config.architecture}, {config.num_layers} layers of width {config.hidden_size} ({config.num_heads} heads of "
        f"{config.head_dim}, {config.num_kv_heads} KV heads)" + "".join(f", {flag}" for flag in named)
    )


def _taps(config: HeadConfig) -> str:
    places = ["the last norm" if tap == config.target_layers else f"before layer {tap}" for tap in config.taps]
    return f"the target's states {', '.join(places)} (boundaries {', '.join(map(str, config.taps))})"


def _drafts(config: HeadConfig) -> str:
    if config.architecture in ("eagle1", "eagle3", "mtp"):
        return "token by token"
    if config.architecture == "medusa":
        return f"{config.num_drafted} tokens at once"
    parts = [
        f"{config.num_drafted} tokens from a block of {config.block_size} rows",
        "causal" if config.causal else "not causal",
        f"Markov term of rank {config.markov_rank}" if config.markov_rank else "no Markov term",
        "confidence" if config.confidence else "no confidence",
        f"mask token {config.mask_token_id}",
    ]
    return ", ".join(parts)


def _shared(config: HeadConfig) -> str:
    embedding = "" if config.own_embedding or config.architecture == "medusa" else "embedding"
    rows = [name for name in (embedding, "" if config.own_output else "output rows") if name]
    return f"the target's {' and '.join(rows)}" if rows else "nothing with its target"
