"""Moves accepted paths together in the cache."""
