"""Published results beside ours, each in a file: `python -m experiments.reproduce [NAME …]`."""
