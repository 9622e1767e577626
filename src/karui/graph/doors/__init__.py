"""The doors: one file per framework, each turns its networks into a Network."""
