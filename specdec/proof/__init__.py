"""Is a rule lossless? Exact laws, certificates, bounds."""
