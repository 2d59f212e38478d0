"""Accuracy techniques: SmoothQuant, equalization, range search, GPTQ rounding."""
