"""What is known of a model without changing it: shapes, cost, summary."""
