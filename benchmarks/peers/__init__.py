"""The whole system beside its peers: same weights, same prompts, same threads, every engine in a process of its own.

`python -m benchmarks.peers` installs what is missing, measures and reports; see `benchmarks.peers.__main__`.
"""
