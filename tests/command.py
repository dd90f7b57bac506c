"""The command line, called as a user calls it."""

from ebb.cli import main


def ebb(*arguments):
    """Exit code of a command; what it prints is read by capsys."""
    try:
        main([str(a) for a in arguments])
    except SystemExit as end:
        return end.code
    return 0
