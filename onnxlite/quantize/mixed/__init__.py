"""Mixed precision: sensitivity of layers, and the choice of bits or of the way to quantize."""
