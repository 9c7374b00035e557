"""Draft trees that grow on the GPU; `specdec/drafters/likeliest.py` says the same in plain Python."""
