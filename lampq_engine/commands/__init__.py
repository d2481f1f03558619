"""The command line. Parsing needs no torch; a command imports what it runs only when it runs."""

from lampq_engine.commands.main import main

__all__ = ["main"]
