"""Native kernels for CPUs: C++ compiled on first use, called through a C interface."""
