"""Loops over batches: ``engine.fit``, which trains, and ``engine.predict``, which adapts to batch after batch.

With the optimizer and the scheduler, what callbacks are told, the history that is returned, and the files from which
a loop that was ended goes on.
"""
