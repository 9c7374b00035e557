"""Tokenizers that are made in a moment: of given pieces, or trained on a few lines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from itertools import count, islice, product
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

LINES = [
    "The quick brown fox jumps over the lazy dog. Über allen Gipfeln ist Ruh, in allen Wipfeln spürest du kaum was.",
    "Emoji 😀🎉 and more 😀 text; naïve café déjà vu.\n\nNew lines,  double  spaces and\ttabs. def f(x):\n    return x",
    "unbelievable believers believe in the unbelievable; the theory, then the other, and then thence there again.\n\n",
]


def of_merges(characters: str, merges: Sequence[tuple[str, str]], end: str | None = None) -> Any:
    """Characters, and what they are merged to, in this order: BPE without anything around it.

    Args:
        end: name of a token that ends a text, after the others.
    """
    pieces = [*characters, *("".join(pair) for pair in merges)]
    model = models.BPE(vocab={piece: token for token, piece in enumerate(pieces)}, merges=list(merges))
    return _made(model, **({} if end is None else {"eos_token": end}))


@cache
def of_strings(size: int, alphabet: str = "ab ") -> Any:
    """The `size` shortest strings over an alphabet, all equally likely in themselves: a text is split into few."""
    strings = ("".join(each) for length in count(1) for each in product(alphabet, repeat=length))
    return _made(models.Unigram([(piece, -1.0) for piece in islice(strings, size)]))


@cache
def byte_level(size: int = 400) -> Any:
    """As GPT-2's, with special tokens for chats."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|end|>", "<|user|>"]
    tokenizer.train_from_iterator(
        LINES,
        trainers.BpeTrainer(vocab_size=size, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    return _wrapped(tokenizer, eos_token="<|end|>", additional_special_tokens=["<|user|>"])


@cache
def unigram(size: int = 200) -> Any:
    """As T5's: spaces are ▁, there is one before a text, and <s> before that."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    special = ["<s>", "</s>", "<unk>", "<|user|>"]
    tokenizer.train_from_iterator(
        LINES,
        trainers.UnigramTrainer(vocab_size=size, special_tokens=special, unk_token="<unk>", show_progress=False),
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return _wrapped(tokenizer, **names, additional_special_tokens=["<|user|>"])


@cache
def byte_fallback(size: int = 400) -> Any:
    """As Llama's: spaces are ▁, with one before a text whatever it begins with; the rest is spelt byte by byte."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    lines = [f"▁{line.replace(' ', '▁')}" for line in LINES[::2]]
    trained.train_from_iterator(lines, trainers.BpeTrainer(vocab_size=size - 259, show_progress=False))
    learnt = json.loads(trained.to_str())["model"]
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *learnt["vocab"]]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={piece: token for token, piece in enumerate(pieces)},
            merges=[tuple(pair) for pair in learnt["merges"]],
            byte_fallback=True,
            unk_token="<unk>",
        )
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    spaces = decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)
    tokenizer.decoder = decoders.Sequence(list(spaces))
    return _wrapped(tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@cache
def word_piece(size: int = 200) -> Any:
    """As BERT's without capitals: spaces are not kept, parts of words begin with ##."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    tokenizer.train_from_iterator(
        LINES, trainers.WordPieceTrainer(vocab_size=size, special_tokens=["[UNK]", "[SEP]"], show_progress=False)
    )
    return _wrapped(tokenizer, eos_token="[SEP]", unk_token="[UNK]")


TRAINED = {"byte-level": byte_level, "Unigram": unigram, "byte fallback": byte_fallback, "WordPiece": word_piece}


def _made(model: models.Model, **special: str) -> Any:
    """A tokenizer without anything around its model: pieces are text."""
    tokenizer = Tokenizer(model)
    tokenizer.decoder = decoders.Fuse()
    return _wrapped(tokenizer, **special)


def _wrapped(tokenizer: Tokenizer, **special: Any) -> Any:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
