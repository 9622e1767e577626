"""The torch-free waist: what a network is once it is lowered, how it is written to a file, and what it computes."""
