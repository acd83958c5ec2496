"""Control from outside: the owner of a journal listens on a Unix socket beside it.

`meowcat.control.client.connect` reaches the owner; the format is in `docs/reference/control-socket.md`.
"""
