"""Processes that torchrun starts train and adapt like one process, also where one of them is killed."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import PYTHON_FOLDER
from frameworks.ranks import BATCHES, CAN_SHARD, OPTIONS, STEPS, X, shaped_engine, trained_engine
from torch import Tensor, nn
from torch.nn import functional as F

RANKS = Path(__file__).with_name("ranks.py")
needs_sharding = pytest.mark.skipif(not CAN_SHARD, reason="an error with this torch")
HOW = ["ddp", pytest.param("fsdp", marks=needs_sharding)]


def torchrun(name: str, folder: Path, processes: int, *arguments: str, device: str = "cpu") -> None:
    python_path = os.pathsep.join([str(PYTHON_FOLDER), os.environ.get("PYTHONPATH", "")])
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", *arguments]
    # Else processes that are started anew may look for those of before, whose addresses are still in the store.
    new_store = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    environment = {**os.environ, **new_store, "PYTHONPATH": python_path, "OMP_NUM_THREADS": "1"}
    command = [*start, str(RANKS), name, str(folder), device]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module", params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def results(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[dict[str, Any]]]:
    """What each process found: two processes with gloo, or one or two with a GPU each and NCCL."""
    folder = tmp_path_factory.mktemp("together")
    processes = 2 if request.param == "cpu" else min(2, torch.cuda.device_count())
    torchrun("together", folder, processes, device=request.param)
    names = ("ddp", *(["fsdp"] if CAN_SHARD else []), "adapt", "adapt_in_ddp")
    return {
        name: [torch.load(folder / f"{name}-{rank}.pt", map_location="cpu") for rank in range(processes)]
        for name in names
    }


@pytest.fixture(scope="module")
def trained() -> dict[str, Tensor]:
    """Weights that one process gets by the two terms written out by hand."""
    engine = shaped_engine()
    first, activation, last = engine.model
    optimizer = torch.optim.SGD(engine.parameters(), 0.1, momentum=0.9)
    for x, y in STEPS:
        optimizer.zero_grad()
        features = first(x)
        second = last(activation(features + by_hand(engine.embedder, y)))
        (F.mse_loss(last(activation(features)), y) + F.mse_loss(second, y)).backward()
        optimizer.step()
    return {name: weight.detach() for name, weight in engine.named_parameters()}


def by_hand(embedder: nn.Module, prediction: Tensor) -> Tensor:
    hidden = F.leaky_relu(F.linear(prediction, embedder.weight1, embedder.bias1))
    return F.leaky_relu(F.linear(hidden, embedder.weight2, embedder.bias2))


@pytest.mark.parametrize("how", HOW)
def test_halves_train_like_the_whole(how: str, results: dict[str, Any], trained: dict[str, Tensor]) -> None:
    before = dict(shaped_engine().named_parameters())
    for found in results[how]:
        for name, weight in trained.items():
            torch.testing.assert_close(found["state"][name], weight, rtol=0, atol=1e-6)
            assert (weight - before[name]).abs().max() > 1e-3


@pytest.mark.parametrize("how", HOW)
def test_a_fresh_engine_says_what_to_call(how: str, results: dict[str, Any]) -> None:
    for found in results[how]:
        assert "call engine.adapt(inputs, num_steps=0) on one batch" in found["fresh"]
        assert "call engine.adapt(inputs, num_steps=0)" in found.get("fresh in a part", found["fresh"])


@needs_sharding
def test_a_sharded_engine_says_that_it_cannot_adapt(results: dict[str, Any]) -> None:
    others = {"adapt in FSDP1", "train with an older torch"}
    for found in results["fsdp"]:
        assert found["errors"].keys() == {"adapt", "eval", "uncertainty", "predict", "save", *others}
        for name, text in found["errors"].items():
            assert "spread over processes" in text, name


@needs_sharding
def test_the_whole_weights_of_a_sharded_engine_adapt(results: dict[str, Any], trained: dict[str, Tensor]) -> None:
    engine = shaped_engine()
    engine.load_state_dict(trained, strict=False)
    expected = engine.eval().adapt(X).prediction
    for found in results["fsdp"]:
        assert found["is_trained"]
        torch.testing.assert_close(found["adapted"], expected, rtol=0, atol=1e-6)


def test_shares_of_the_data_adapt_like_one_process(results: dict[str, Any]) -> None:
    engine = trained_engine()
    for found in results["adapt"]:
        assert sorted(int(n) for numbers, _ in found["by sampler"] for n in numbers) == list(range(len(X)))
        for numbers, prediction in found["by sampler"]:
            torch.testing.assert_close(prediction, engine(X[numbers])[0], rtol=0, atol=1e-6)
        assert sorted(found["by batch"]) == list(range(len(BATCHES)))
        for number, prediction in found["by batch"].items():
            torch.testing.assert_close(prediction, engine(BATCHES[number])[0], rtol=0, atol=1e-6)


def test_adapting_inside_ddp_stays_in_its_process(results: dict[str, Any]) -> None:
    for found in results["adapt_in_ddp"]:
        for batch, prediction in zip(BATCHES, found["predictions"], strict=False):
            torch.testing.assert_close(prediction, steps_by_hand(batch), rtol=0, atol=1e-6)
        assert found["is_as_before"]
        assert not found["has_gradients"]
        while_adapting, in_training = found["counts"]
        assert while_adapting == 0
        assert in_training > 0


def steps_by_hand(x: Tensor) -> Tensor:
    """Adapt with torch's Adam, in one process."""
    engine = trained_engine()
    first, activation, last = engine.model
    optimizer = torch.optim.Adam(engine.model.parameters(), OPTIONS["lr"])
    for _ in range(OPTIONS["num_steps"]):
        optimizer.zero_grad()
        y0 = last(activation(first(x)))
        y1 = last(activation(first(x) + by_hand(engine.embedder, y0)))
        F.mse_loss(y1, y0).backward()
        optimizer.step()
    return engine.model(x).detach()


def test_the_trainer_of_transformers_trains_one_engine_in_all_processes(tmp_path: Path) -> None:
    torchrun("trainer", tmp_path, 2)
    one, other = (torch.load(tmp_path / f"trainer-{rank}.pt") for rank in (0, 1))
    engine = shaped_engine()
    before = engine.state_dict()
    for name, weight in one["state"].items():
        torch.testing.assert_close(weight, other["state"][name], rtol=0, atol=0)
        assert name == "_extra_state" or (weight - before[name]).abs().max() > 1e-3
    engine.load_state_dict(one["state"])
    engine.eval()
    expected = torch.cat([engine.adapt(batch).prediction for batch in X.split(8)])
    torch.testing.assert_close(one["prediction"], expected, rtol=0, atol=1e-6)
    assert torch.equal(one["prediction"], other["prediction"])
    logged = [row for row in one["log"] if "loss_ttt" in row]
    assert len(logged) == 6
    for row in logged:
        assert row["loss"] == pytest.approx(row["loss_criterion"] + row["loss_ttt"], abs=1e-4)


def test_a_killed_process_loses_nothing_and_repeats_nothing(tmp_path: Path, trained: dict[str, Tensor]) -> None:
    torchrun("killed", tmp_path, 2, "--max-restarts", "2")
    assert (tmp_path / "died while training").exists()
    assert (tmp_path / "died while adapting").exists()
    assert (tmp_path / "trained.txt").read_text().split() == [str(number) for number in range(len(STEPS))]
    engine = shaped_engine()
    engine.load_state_dict(torch.load(tmp_path / "snapshot.pt")["engine"])
    for name, weight in engine.named_parameters():
        torch.testing.assert_close(weight.detach(), trained[name], rtol=0, atol=1e-6)
    engine.eval()
    for rank in (0, 1):
        batches = BATCHES[rank::2]
        expected = torch.cat([engine(batch)[0] for batch in batches])
        np.testing.assert_allclose(np.load(tmp_path / f"predictions-{rank}.npy"), expected, rtol=0, atol=1e-6)
    done = (tmp_path / "adapted-1.txt").read_text().split()
    assert done.count("0") == 1  # it went on, and did not begin anew
    assert set(done) == {str(number) for number in range(len(BATCHES[1::2]))}
