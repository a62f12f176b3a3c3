"""``python -m it3``: the command line."""

from it3.command_line.program import main

if __name__ == "__main__":
    main()
