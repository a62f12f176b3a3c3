"""Pictures of what it3 returns, by matplotlib: ``pip install matplotlib``.

Each function draws on the matplotlib Axes that it is given, or on new ones in a figure of their own, and returns them:
``ax.figure.savefig("picture.png")`` writes that. Where ``matplotlib.pyplot`` has been imported, and in a notebook, the
new figure is one of pyplot's: ``plt.show()`` shows it, a notebook shows it once, below the cell, and it takes memory
until ``plt.close(ax.figure)`` or ``plt.close("all")``, so a loop that draws many closes each or gives ``ax``. Elsewhere
pyplot does not know the figure, which is freed with the Axes. matplotlib's settings are not changed.
"""

from it3.plots.of_adaptation import before_and_after, losses
from it3.plots.of_evaluation import gains
from it3.plots.of_uncertainty import risk_coverage, uncertainty_against_error
from it3.plots.of_weights import cut, drift

__all__ = ["before_and_after", "cut", "drift", "gains", "losses", "risk_coverage", "uncertainty_against_error"]
