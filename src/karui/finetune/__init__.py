"""Training after and during compression: one loop for every technique, phases in time, checkpoints, and hooks for loops of one's own."""
