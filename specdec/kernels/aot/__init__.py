"""Compiling every Triton kernel for real GPUs where there is none."""
