"""The command line: `meowcat get | put | ls | show | log | pause | resume | cancel | retry | orphans | …`.

It parses, asks the engine and prints. No rule that decides anything about a transfer lives here.
"""

from meowcat.cli.app import main

__all__ = ["main"]
