"""Tuning: a compressed model is trained to compute what its original does, without labels."""
