"""Half precision: every float32 of a model as 16 bits, as far as operators and numbers allow."""
