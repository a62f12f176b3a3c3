"""The command line ``it3``: what it is told goes to the functions of :mod:`it3`, and what they return is printed."""
