"""A search whose answer is known, by functions that other processes can import: `python searched.py WAY PATH`."""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import it3
import torch
from it3 import IT3Engine
from it3.searching.search import Search
from torch import Tensor, nn

PLANTED = {"layer": "2", "gain": 2.0}
PLANTED_ADAPTATION = {"num_steps": 3, "anchor": "frozen"}
SPACE: dict[str, Any] = {"layer": ["0", "2"], "gain": [0.5, 1.0, 2.0]}
ADAPTATION: dict[str, Any] = {"num_steps": [1, 3], "anchor": ["self", "frozen"]}
X = torch.randn(12, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
CALLS: list[tuple[dict[str, Any], int]] = []


def make(settings: dict[str, Any], seed: int) -> IT3Engine:
    """Make an engine that is the same for all seeds."""
    CALLS.append((settings, seed))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    with torch.no_grad():
        model[0].weight *= settings["gain"]
    engine = IT3Engine(model.eval(), settings["layer"], optimization_parameters={"lr": 0.02}).eval()
    torch.manual_seed(1)
    engine.uncertainty(X)  # shapes the embedder
    engine.is_trained = True
    return engine


def batches() -> list[tuple[Tensor, Tensor]]:
    """Return data whose targets are what one way predicts."""
    with torch.random.fork_rng():
        engine = make(PLANTED, 0)
    return [(x, engine.adapt(x, **PLANTED_ADAPTATION).prediction) for x in X.split(4)]


def search(train: Any = make, **arguments: Any) -> Search:
    """Search among six ways, of which each is tried."""
    given: dict[str, Any] = {"validation": batches(), "metric": "mse", "space": SPACE, "adaptation": ADAPTATION}
    given |= {"budget": 6, "adaptation_budget": 12, "seeds": 1}
    CALLS.clear()
    return it3.search(train, **given | arguments)


def results(found: Search) -> list[dict[str, Any]]:
    """What of the trials does not depend on when and how they ran, without nan, which is equal to nothing."""
    other = ("number", "training_seconds", "adaptation_seconds")
    return [
        {name: None if str(value) == "nan" else value for name, value in trial.items() if name not in other}
        for trial in found.trials
    ]


def of_settings(found: Search) -> list[dict[str, Any]]:
    return sorted(results(found), key=lambda trial: sorted(map(str, trial["settings"].items())))


def make_until_killed(settings: dict[str, Any], seed: int) -> IT3Engine:
    """Be killed in the fourth trial."""
    if len(CALLS) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return make(settings, seed)


def make_or_die(settings: dict[str, Any], seed: int) -> IT3Engine:
    if settings["gain"] == 1.0:
        os._exit(3)
    return make(settings, seed)


def make_or_interrupt(settings: dict[str, Any], seed: int) -> IT3Engine:
    """Press Ctrl-C, for the process that searches."""
    if settings["gain"] == 1.0:
        os.kill(os.getppid(), signal.SIGINT)
        time.sleep(600)
    return make(settings, seed)


def make_nothing(settings: dict[str, Any], _seed: int) -> Any:
    return settings


def make_slowly(_settings: dict[str, Any], _seed: int) -> IT3Engine:
    """Say who is at it, and stay."""
    Path(os.environ["IT3_TEST_FOLDER"], str(os.getpid())).touch()
    time.sleep(600)
    raise AssertionError


WAYS: dict[str, Any] = {
    "killed": {"train": make_until_killed},
    "slow": {"train": make_slowly, "processes": 2, "budget": 1},
}

if __name__ == "__main__":
    _, way, path = sys.argv
    search(path=path, **WAYS[way])
