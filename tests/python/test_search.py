"""search() chooses as it says."""

import itertools
import math
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import it3
import numpy as np
import pytest
import searched
import torch
import torch.nn.functional as F
from it3 import Embedder, IT3Engine
from models import VectorCNN
from searched import PLANTED, PLANTED_ADAPTATION, SPACE, make, results, search
from torch import Tensor, nn

close = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-9)


def test_searching_finds_what_was_planted() -> None:
    found = search()
    assert found.choice == PLANTED
    assert found.adaptation == PLANTED_ADAPTATION
    close(found.score, 0.0)
    assert found.unadapted > 0
    assert sorted(map(str, (trial["settings"] for trial in found.trials))) == sorted(
        str({"layer": layer, "gain": gain}) for layer, gain in itertools.product(*SPACE.values())
    )
    said = str(found)
    assert said.startswith("score 0 on the validation data, ")
    assert "with 0 steps; 6 trials\ntrained with\n  layer = '2'\n  gain = 2.0\nadapted with\n  num_steps = 3\n" in said


def train_cnn(settings: dict[str, Any], seed: int) -> IT3Engine:
    """Train for a few steps, by all generators."""
    engine = IT3Engine(VectorCNN().double(), settings["layer"])
    shift = random.random() + np.random.random()  # noqa: NPY002  (the global one)
    optimizer = torch.optim.SGD(engine.parameters(), settings["lr"])
    for _ in range(settings["steps"]):
        x = torch.randn(8, 1, 8, 8, dtype=torch.float64) + shift + seed
        prediction, loss_ttt = engine(x, target=x.mean((2, 3)).expand(8, 5))
        optimizer.zero_grad()
        ((prediction - x.mean()).square().mean() + loss_ttt).backward()
        optimizer.step()
    return engine


def test_all_scores_are_those_of_a_plain_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((12, 1, 8, 8), (12, 5)))
    batches = list(zip(x.split(8), y.split(8), strict=True))
    space = {"layer": ["conv1", "fc"], "lr": (1e-3, 1e-1), "steps": (1, 3)}
    adaptation = {"num_steps": [1, 2], "lr": [1e-3, 1e-2]}
    found = it3.search(
        train_cnn, batches, "mse", space, adaptation=adaptation, budget=4, adaptation_budget=20, seeds=2, seed=3
    )
    assert len(found.trials) == 4
    scores = []
    for trial in found.trials:
        settings = trial["settings"]
        assert isinstance(settings["steps"], int)
        assert 1e-3 <= settings["lr"] <= 1e-1
        engines = []
        for seed in (3, 4):
            for generate in (torch.manual_seed, random.seed, np.random.seed):
                generate(seed)
            engines.append(train_cnn(settings, seed).eval())

        def errors(predict: Callable[[IT3Engine, Tensor], Tensor], engines: list[IT3Engine] = engines) -> list[float]:
            return [
                torch.cat([(predict(engine, x) - y).square().mean(1) for x, y in batches]).mean().item()
                for engine in engines
            ]

        def by_batch_statistics(engine: IT3Engine, x: Tensor) -> Tensor:
            model = engine.model
            hidden = F.batch_norm(model.conv1(x), None, None, model.norm.weight, model.norm.bias, training=True)
            return model.fc(torch.tanh(model.conv2(torch.tanh(hidden))).flatten(1)).detach()

        ways = {
            (steps, lr): errors(lambda engine, x, s=steps, r=lr: engine.adapt(x, num_steps=s, lr=r).prediction)
            for steps, lr in itertools.product(*adaptation.values())
        }
        best = min(ways, key=lambda way: fmean(ways[way]))
        assert trial["adaptation"] == {"num_steps": best[0], "lr": best[1]}
        close(trial["scores"], ways[best])
        assert len(trial["adaptations"]) == 20
        for tried in trial["adaptations"]:
            close(tried["score"], fmean(ways[tried["settings"]["num_steps"], tried["settings"]["lr"]]))
        close(trial["score"], fmean(ways[best]))
        close(trial["unadapted"], fmean(errors(lambda engine, x: engine.model(x).detach())))
        close(trial["second"], fmean(errors(lambda engine, x: engine.adapt(x, num_steps=0).second)))
        close(trial["batch_statistics"], fmean(errors(by_batch_statistics)))
        assert trial["training_seconds"] > 0
        assert trial["adaptation_seconds"] > 0
        assert trial["failure"] == ""
        scores.append(trial["score"])
    best_of_all = found.trials[scores.index(min(scores))]
    assert (found.choice, found.adaptation) == (best_of_all["settings"], best_of_all["adaptation"])
    assert (found.score, found.unadapted) == (best_of_all["score"], best_of_all["unadapted"])

    engines = found.retrain(2)  # with the seeds that follow
    for seed, engine in zip((5, 6), engines, strict=True):
        for generate in (torch.manual_seed, random.seed, np.random.seed):
            generate(seed)
        other = train_cnn(found.choice, seed).eval()
        close(engine.adapt(x).prediction, other.adapt(x, **found.adaptation).prediction)


def test_the_default_settings_of_test_time(tmp_path: Path) -> None:
    path = tmp_path / "search.log"
    given: dict[str, Any] = {"adaptation": None, "adaptation_budget": 4, "budget": 2, "path": path}
    found = search(**given)
    assert found.adaptation.keys() == {"num_steps", "lr", "anchor", "distance_fn"}  # there is no normalization
    assert math.isnan(found.trials[0]["batch_statistics"])
    assert found.adaptation["distance_fn"] in (None, "l1")
    assert results(search(**given)) == results(found)


def test_everything_stays_and_comes_again() -> None:
    def state() -> list[Any]:
        return [torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()]  # noqa: NPY002

    embedder = Embedder().double()
    embedder(torch.randn(5, 3).double(), torch.randn(5, 8).double())
    weights = [weight.detach().clone() for weight in embedder.parameters()]

    def train(settings: dict[str, Any], seed: int) -> IT3Engine:
        engine = make({"gain": 1.0, "layer": "0"}, seed)
        engine.embedder = settings["embedder"]
        assert all(torch.equal(a, b) for a, b in zip(engine.embedder.parameters(), weights, strict=True))
        with torch.no_grad():  # as training does
            for parameter in engine.embedder.parameters():
                parameter.add_(settings["scale"] * torch.randn_like(parameter))
        random.random()
        np.random.random()  # noqa: NPY002
        return engine

    before = state()
    space = {"embedder": [embedder], "scale": (0.1, 1.0)}
    one, other = (search(train, space=space, budget=3, seeds=2) for _ in range(2))
    one.retrain(1)
    assert state() == before
    assert str(results(one)) == str(results(other))
    assert all(torch.equal(a, b) for a, b in zip(embedder.parameters(), weights, strict=True))


def test_a_trial_that_fails_is_recorded() -> None:
    def train(settings: dict[str, Any], seed: int) -> IT3Engine:
        if settings["layer"] == "0":
            raise RuntimeError("no memory")
        engine = make(settings, seed)
        if settings["gain"] == 0.5:
            engine.model[4].bias.data.fill_(torch.nan)
        return engine

    with pytest.warns(UserWarning, match="failed: ") as warnings:
        found = search(train)
    assert len(warnings) == 4
    assert Path(warnings[0].filename).name == "searched.py"
    for trial in found.trials:
        if trial["settings"]["layer"] == "0":
            assert trial["failure"].startswith("RuntimeError: no memory (")
            assert "test_search.py, line" in trial["failure"]
        elif trial["settings"]["gain"] == 0.5:
            assert "it cannot be scored without adaptation (num_steps=0): " in trial["failure"]
            assert "not finite" in trial["failure"]
        else:
            assert trial["failure"] == ""
    assert found.choice == PLANTED
    frame = found.to_frame()
    assert frame["settings.layer"].tolist() == [trial["settings"]["layer"] for trial in found.trials]
    assert frame["score"].isna().sum() == 4
    with (
        pytest.warns(UserWarning, match="failed: ZeroDivisionError"),
        pytest.raises(ValueError, match=r"no trial gave a score; the first failed: ZeroDivisionError: division by"),
    ):
        search(lambda _settings, _seed: 1 / 0, budget=2)


def test_what_cannot_be_searched() -> None:
    with pytest.raises(TypeError, match="train must be a function of settings and a seed that trains an engine, not 3"):
        search(3)
    for processes in (1, 2):
        with pytest.raises(TypeError, match="train must return the IT3Engine that it trained, not a dict"):
            search(searched.make_nothing, processes=processes, budget=1)
    for name in ("budget", "adaptation_budget", "seeds", "processes"):
        for number in (0, 1.5, True):
            with pytest.raises(ValueError, match=f"^{name} must be a whole number, 1 or more, not {number}"):
                search(**{name: number})
    with pytest.raises(ValueError, match="seed must be a whole number, 0 or more, not -1"):
        search(seed=-1)
    with pytest.raises(ValueError, match="seeds must be a whole number, 1 or more, not 0"):
        search(budget=1).retrain(0)
    for space in ({}, ["lr"], None, {0: [1]}):
        with pytest.raises(ValueError, match="space must be a mapping of names to lists of choices or pairs"):
            search(space=space)
    with pytest.raises(ValueError, match="adaptation must be a mapping of names to lists"):
        search(adaptation={})
    for values in ([], (0.0, 1.0), (1.0,), (2.0, 1.0), "fc1"):
        with pytest.raises(ValueError, match="'gain'"):
            search(space={"layer": ["0"], "gain": values})
    with pytest.raises(ValueError, match="did you mean 'num_steps'"):
        search(adaptation={"num_step": [1]})
    with pytest.raises(ValueError, match="norm_prior is for norm_statistics='blend'"):
        search(adaptation={"norm_prior": [4.0]})
    with pytest.raises(ValueError, match="metric must be one of"):
        search(metric="auc")
    with pytest.raises(ValueError, match="the loader gave no batches"):
        search(validation=[])


def test_a_metric_of_which_more_is_better() -> None:
    def closeness(prediction: Tensor, targets: Tensor) -> Tensor:
        return -(prediction - targets).square().mean(1)

    found = search(validation=lambda _seed: searched.batches(), metric=closeness)
    assert (found.choice, found.adaptation) == (PLANTED, PLANTED_ADAPTATION)
    best, number = max((trial["second"], trial["number"]) for trial in found.trials)
    assert best > max(trial["unadapted"] for trial in found.trials)
    assert str(found).endswith(f"The best score of a trial without adapting is {best:.4g}: y1, trial {number}.")


def test_a_range_of_whole_numbers_ends_when_all_were_tried() -> None:
    found = search(space={"layer": ["2"], "gain": (1, 3)}, budget=20)
    assert sorted(trial["settings"]["gain"] for trial in found.trials) == [1, 2, 3]
    assert found.choice == PLANTED


def test_options_that_are_spelled_otherwise_or_refine_others() -> None:
    adaptation = {"online": [True, False], "anchor": ["self", "ema"], "ema_decay": [0.0, 0.9]}
    found = search(adaptation=adaptation, budget=2)
    for trial in found.trials:
        assert {"copy_model", "anchor"} <= trial["adaptation"].keys()
        assert ("ema_decay" in trial["adaptation"]) == (trial["adaptation"]["anchor"] == "ema")
        engine = make(trial["settings"], 0)
        if trial["adaptation"]["copy_model"]:
            close(
                trial["score"],
                torch.cat(
                    [
                        (engine.adapt(x, **trial["adaptation"]).prediction - y).square().mean(1)
                        for x, y in searched.batches()
                    ]
                )
                .mean()
                .item(),
            )


def test_settings_may_be_anything() -> None:
    class Wide(nn.Tanh):
        pass

    def train(settings: dict[str, Any], seed: int) -> IT3Engine:
        engine = make(PLANTED, seed)
        engine.model[1] = settings["activation"]()
        return engine

    found = search(train, space={"activation": [nn.ReLU, nn.Tanh, Wide, nn.Sigmoid], "name": [("a", 1)]})
    assert found.choice["activation"] in (nn.Tanh, Wide)
    assert found.choice["name"] == ("a", 1)
    assert len(found.trials) == 4
