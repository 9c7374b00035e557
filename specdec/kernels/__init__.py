"""One folder an operation: `reference.py` is plain torch and the truth, faster versions stand beside it."""
