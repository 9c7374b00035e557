"""Trains heads: prompts, the target's own answers, what the target saw, and the loss (docs/training.md)."""
