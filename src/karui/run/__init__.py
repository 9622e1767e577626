"""Artefact → outputs and numbers: build it, run it, weigh it, time it. No torch here."""
