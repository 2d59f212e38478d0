"""Integers whose activation scales are found in each run."""
