"""Where a model runs on integers: what can, and what pays on this machine."""
