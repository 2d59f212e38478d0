"""Analysis of a model, which does not change it: shapes, cost, channels, summary."""
