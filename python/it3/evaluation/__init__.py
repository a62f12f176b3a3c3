"""Does adaptation help? ``it3.evaluate``, and all that its table is made of.

Rows of predictors, among them the controls that a gain has to beat: repairs of the inputs, other methods, and what has
learned nothing but the targets. Metrics, labels, intervals by a bootstrap, the page that ``Evaluation.report`` writes,
and ``it3.stream``, which puts test data into the orders in which they may come.
"""
