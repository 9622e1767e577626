"""From a run's record to what a person reads: one HTML page, and tables in the terminal. No torch."""
