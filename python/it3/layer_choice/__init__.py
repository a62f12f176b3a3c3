"""At which layer to feed y0 back: ``it3.layers`` and ``it3.suggest_layer``.

A model's layers with what each costs, found by watching a run; one to begin with, by rules that say their reasons; and
which modules run before a layer and which behind it.
"""
