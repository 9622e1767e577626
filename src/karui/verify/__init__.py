"""The verdict: accuracy, parity, costs; numbers only, no torch."""
