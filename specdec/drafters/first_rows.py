"""What a model says after every token alone: successors of tokens that no text has shown yet."""

from __future__ import annotations

import logging
from hashlib import sha256

import numpy as np
import numpy.typing as npt
import torch

from specdec.cache import PagedCache
from specdec.kept import doubt, recall, store
from specdec.models.base import CausalLM, Wants
from specdec.models.batch import RaggedBatch, SequenceRows
from specdec.paths import cache_dir
from specdec.stores import STOCK_ROWS, StoreError, Vocabulary, fitting, read

logger = logging.getLogger("specdec")
Rows = npt.NDArray[np.int32]
FORMAT = 1
BATCH = 256
"""Tokens of one pass."""
TOLD = 2e11
"""From so many on it takes seconds, and the log says what for."""
CHEAP = {"cpu": 2e13, "gpu": 2e15}
"""Multiplications that are done without being asked for: about two minutes on two cores."""


def shipped_rows(vocabulary: Vocabulary, count: int) -> Rows | None:
    """The rows that ship with the package, int32 [V, count]; None for a target with another tokenizer. They are guesses
    for any model with that tokenizer, and those of the embedded one."""
    try:
        store = fitting(read(STOCK_ROWS), vocabulary)
    except StoreError:
        return None
    rows = store.tokens.reshape(store.num_texts, -1)[:, :-1]  # behind each text stands its end
    if len(rows) != vocabulary.size or count > rows.shape[1]:
        return None
    return np.ascontiguousarray(rows[:, :count], np.int32)


def is_cheap(model: CausalLM) -> bool:
    """Whether the rows of all tokens take a minute or two: a guess from the sizes of a transformer."""
    device = "cpu" if torch.device(model.kv_layout.device).type == "cpu" else "gpu"
    return _multiplications(model) <= CHEAP[device]


def _multiplications(model: CausalLM) -> float:
    width, layers, tokens = model.hidden_size, model.kv_layout.num_layers, model.vocab_size
    return float(tokens) * (12 * width * width * layers + tokens * width)


def first_rows(model: CausalLM, start: int, count: int) -> Rows:
    """The `count` likeliest successors of every token, as if it were the first of a text.

    They are kept on disk under a digest of what the model says after some tokens, its hidden states included.

    Args:
        model: the target, or any other model.
        start: id of the token that begins a text.
        count: successors of a token; at most V.

    Returns:
        int32 [V, count], likeliest first.
    """
    alone = _Alone(model, start, count)
    path = cache_dir() / "first_rows" / f"{alone.digest()}.bin"
    shape = (model.vocab_size, count)
    if (found := recall(path)) is not None:
        rows = np.frombuffer(found[0], np.int32)
        if rows.size == shape[0] * shape[1] and rows.min() >= 0 and rows.max() < model.vocab_size:
            return rows.reshape(shape)
        doubt(path, "it holds rows of another vocabulary")
    if _multiplications(model) > TOLD:
        logger.warning(
            "Finding out what %s says after each of its %d tokens, for drafter 'recycling': once; it is kept. With "
            "drafter.first=false it does without.", model.name, model.vocab_size,
        )  # fmt: skip
    made = np.concatenate([alone.rows(range(at, min(at + BATCH, shape[0])))[0] for at in range(0, shape[0], BATCH)])
    store(path, made.tobytes())
    return made


class _Alone:
    """A cache that holds the first token of a text, below which the others stand side by side."""

    def __init__(self, model: CausalLM, start: int, count: int) -> None:
        self._model, self._start, self._count = model, start, count
        self._cache = PagedCache(model.kv_layout, -(-(BATCH + 1) // 16), 16)
        self._cache.add(0)
        self._cache.reserve(0, BATCH + 1)
        self._slots = self._cache.slots(0)
        self._run(SequenceRows([start], self._slots[:1], 0), Wants("argmax"))

    def rows(self, tokens: range, hidden: tuple[int, ...] = ()) -> tuple[Rows, torch.Tensor | None]:
        """Successors of some tokens, int32 [n, count], and their hidden states."""
        count = len(tokens)
        part = SequenceRows(list(tokens), self._slots[: count + 1], 1, [-1] * count, logit_rows=list(range(count)))
        return self._run(part, Wants("argmax", hidden, self._count))

    def digest(self) -> str:
        """Tells models apart: every weight has a part in some of these numbers."""
        model = self._model
        rows, states = self.rows(range(min(BATCH, model.vocab_size)), (model.kv_layout.num_layers,))
        assert states is not None
        about = f"{FORMAT} {model.vocab_size} {self._start} {self._count}"
        return sha256(about.encode() + rows.tobytes() + states.cpu().numpy().tobytes()).hexdigest()[:32]

    @torch.inference_mode()
    def _run(self, part: SequenceRows, wants: Wants) -> tuple[Rows, torch.Tensor | None]:
        batch = RaggedBatch.build([part])
        output = self._model.run(batch, self._cache.target, wants)
        return output.top(self._count).numpy() if wants.top else np.empty((0, 0), np.int32), output.hidden
