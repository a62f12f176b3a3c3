"""Small things that all groups use, which know nothing of engines.

Checks of arguments, batches and which part of them is the input, devices, random generators and modes that are put
back, texts that identify a value in every process, progress bars, notes with exceptions, tables as text, and the base
of options.
"""
