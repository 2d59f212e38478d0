"""Sensitivity of layers, mixed precision, and the choice of static or dynamic."""
