"""A WSGI application that opens an engine when it is imported: in gunicorn's master, under --preload."""

import os

import meowcat

FOLDER, URL = os.environ["FOLDER"], os.environ["URL"]

engine = meowcat.blocking.Engine(
    f"{FOLDER}/t.db", config=meowcat.Config(flush_seconds=0.02, piece_size=256 << 10)
).open()
task = engine.submit(meowcat.Download(URL, f"{FOLDER}/a"))


def application(environ, start_response):
    """Try to use the engine, and say what came of it."""
    try:
        text = repr(task.result() if environ["PATH_INFO"] == "/result" else engine.snapshot())
    except meowcat.MeowcatError as error:
        text = f"{type(error).__name__}: {error}"
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [text.encode()]
