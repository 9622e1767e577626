"""Graph → facts: cost, memory, what values were seen."""
