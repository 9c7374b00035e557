"""From logits to a verdict on the GPU. The reference is the rules themselves, specdec/verify."""
