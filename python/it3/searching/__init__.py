"""Settings searched on data that are held out from the test: ``it3.search`` and ``it3.tune``. They need Optuna.

``tune`` chooses how trained engines adapt; ``search`` trains engines too, trial by trial, in several processes if
wanted, and writes a journal, from which it goes on.
"""
