"""Conversion of weights and activations to float16 or bfloat16."""
