"""Our server beside its peers': same weights, same prompts, same threads, under the load of other people's tools.

`python -m benchmarks.serve` installs what is missing, measures and reports; see `benchmarks.serve.__main__`.
"""
