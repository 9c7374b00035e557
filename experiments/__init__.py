"""Studies: one runnable module each, `python -m experiments.<name> [key=value ...]`."""
