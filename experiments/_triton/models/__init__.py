"""What the server runs: each file is copied into the repository as a `model.py`, and needs nothing but specdec."""
