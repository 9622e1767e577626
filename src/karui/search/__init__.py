"""The flow, many times, under a budget."""
