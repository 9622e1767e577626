"""The C target's kernels: whole networks and layers against peers and the machine's ceiling."""
