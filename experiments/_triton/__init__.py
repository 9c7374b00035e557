"""specdec behind NVIDIA's Triton Inference Server: a model repository, the server, and a client."""
