"""What is known of a run: figures, comparisons, run folders."""
