"""Studies: typed settings, jobs that leave a run folder, sweeps of them."""
