"""The command line: its verbs are the rooms. Nothing heavy is imported before a verb needs it."""

from karui.cli.main import main as main
