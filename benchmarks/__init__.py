"""Side-by-side runs against the peers: `python -m benchmarks.<name>`, one file each."""
