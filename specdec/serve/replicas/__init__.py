"""Several engines behind one router, each in a process of its own (Ray Serve)."""
