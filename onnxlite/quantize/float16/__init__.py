"""Half precision: weights, and where possible activations, in float16 or bfloat16."""
