"""Scripts that turn the embedded model into a peer's format, in that peer's environment."""
