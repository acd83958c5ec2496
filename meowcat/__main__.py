"""`python -m meowcat` is the command line."""

from meowcat.cli import main

if __name__ == "__main__":
    main()
