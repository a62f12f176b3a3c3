"""The loop that trains an engine."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch

from it3.command_line.configured import Criterion
from it3.engine import IT3Engine


def fit(
    engine: IT3Engine,
    loader: Iterable[tuple[Any, Any]],
    criterion: Criterion,
    *,
    epochs: int,
    optimizer: torch.optim.Optimizer,
    done: Callable[[dict[str, Any]], object] = lambda _: None,
) -> list[dict[str, Any]]:
    """Train an engine on the sum of a criterion and the second term of its loss, and put it into eval mode.

    Parameters
    ----------
    done
        Called after each epoch with what is returned of it.

    Returns
    -------
    list[dict]
        Of each epoch its number from 1, and the means over batches of both terms.

    Raises
    ------
    ValueError
        If a loss is not finite.
    """
    engine.train()
    history: list[dict[str, Any]] = []
    for epoch in range(1, epochs + 1):
        losses, losses_ttt = [], []
        for inputs, targets in loader:
            prediction, loss_ttt = engine(inputs, target=targets)
            loss = criterion(prediction, targets)
            optimizer.zero_grad()
            (loss + loss_ttt).backward()
            optimizer.step()
            losses.append(loss.detach())
            losses_ttt.append(loss_ttt.detach())
        means = [float(torch.stack(terms).double().mean()) for terms in (losses, losses_ttt)]
        if not all(map(math.isfinite, means)):
            raise ValueError(f"the loss of epoch {epoch} is not finite; try a smaller lr in [training]")
        history.append({"epoch": epoch, "loss": means[0], "loss_ttt": means[1]})
        done(history[-1])
    engine.eval()
    return history
