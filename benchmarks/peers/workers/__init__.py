"""Scripts that run in the engines' own environments. Each imports its engine and the standard library only."""
