"""What each layer costs in fidelity on integers, and what it buys in time."""
