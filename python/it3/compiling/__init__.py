"""Evaluations that torch's AOTInductor compiles ahead: ``it3.compile``.

What an engine computes in one kind of call is recorded as graphs, what no step changes is moved out of them, they are
compiled into packages, and these are kept in a folder for the next process.
"""
