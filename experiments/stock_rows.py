"""Makes the rows that ship: what the embedded model says after every token alone.

python -m experiments.stock_rows [FILE]
"""

from __future__ import annotations

import sys
from pathlib import Path

from specdec.drafters.first_rows import first_rows
from specdec.kernels.successors import WIDTH
from specdec.models.loading import LoadedModel, load
from specdec.stores import STOCK_ROWS, Store, Vocabulary, write


def rows_of(loaded: LoadedModel) -> Store:
    """One text a token: its likeliest successors."""
    start = getattr(loaded.tokenizer, "bos_token_id", None) or 0
    size = loaded.model.vocab_size
    note = {
        "texts": "likeliest successors of each token",
        "model": loaded.model.name,
        "made by": "experiments/stock_rows.py",
    }
    rows = first_rows(loaded.model, start, WIDTH)
    return Store.of(rows.tolist(), Vocabulary.of_tokenizer(size, loaded.tokenizer), note=note)


def main() -> None:
    """Writes them."""
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else STOCK_ROWS, rows_of(load(dtype="bfloat16")))


if __name__ == "__main__":
    main()
