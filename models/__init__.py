"""Real models for tests, demo and benchmarks: how each is made or fetched."""
