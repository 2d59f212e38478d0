"""Weight-only quantization: weights packed to few bits, activations in float."""
