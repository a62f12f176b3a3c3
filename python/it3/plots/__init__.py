"""Pictures of what it3 returns, by matplotlib: ``pip install matplotlib``.

Each function draws on the matplotlib Axes that it is given, or on new ones in a figure of their own, and returns them:
``ax.figure.savefig("picture.png")`` writes that, and a notebook shows ``ax.figure``. Neither pyplot's state nor
matplotlib's settings are changed, and nothing is shown.
"""

from it3.plots.of_adaptation import before_and_after, losses
from it3.plots.of_evaluation import gains
from it3.plots.of_uncertainty import risk_coverage, uncertainty_against_error
from it3.plots.of_weights import cut, drift

__all__ = ["before_and_after", "cut", "drift", "gains", "losses", "risk_coverage", "uncertainty_against_error"]
