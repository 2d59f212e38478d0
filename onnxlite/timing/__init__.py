"""Times of models, of their nodes, and of single layers, on this machine."""
