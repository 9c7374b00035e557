"""Trained heads: what each architecture is, as torch modules, and the files that hold them."""
