"""The command line: `meowcat get | ls | show | log | resume | demo`.

It parses, asks the engine and prints. No rule that decides anything about a transfer lives here.
"""

from meowcat.cli.app import main

__all__ = ["main"]
