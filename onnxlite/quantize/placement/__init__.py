"""Placement of nodes on integer or float kernels by measured latency."""
