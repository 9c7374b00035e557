"""Scripts that run in the engines' own environments. Each imports its engine, NumPy and the standard library only."""
