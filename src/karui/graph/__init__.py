"""The one graph that everything edits."""
