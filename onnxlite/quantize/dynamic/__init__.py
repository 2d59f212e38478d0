"""Dynamic quantization: activation scales are computed at run time."""
