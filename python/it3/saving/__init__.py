"""Engines in files: ``it3.save`` and ``it3.load``.

What a saved engine's file holds, how it is written with TorchScript, with programs of torch.export or with compiled
ones, and how an engine is made of it again. C++ reads and writes the same files.
"""
