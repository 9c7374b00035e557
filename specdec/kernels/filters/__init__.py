"""Temperature, top-k, top-p and min-p where the logits are."""
