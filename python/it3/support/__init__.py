"""Small things that all groups use, which know nothing of engines.

Checks of arguments, devices, what identifies a value in every process, random generators and modes that are kept,
which part of a batch is the input, progress bars, notes with exceptions, tables as text, and dataclasses of options.
"""
