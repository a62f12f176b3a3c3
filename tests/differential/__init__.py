"""Draws uses of it3 and compares each with the method written plainly. `make differential` runs it."""
