"""Every door: which networks come in, and how far each of them gets."""
