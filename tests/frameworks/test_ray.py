"""Workers of Ray adapt a data set like one process, within bounded memory, also where one of them is killed."""

import os
import resource
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import ray
import torch
from command_line import PYTHON_FOLDER
from it3 import IT3Engine
from it3.frameworks.ray import Adapter
from ray.data import ActorPoolStrategy, DataContext, Dataset
from torch import Tensor, nn

pytestmark = [
    pytest.mark.filterwarnings(f"ignore::{kind}")  # of Ray's own
    for kind in ("DeprecationWarning", "FutureWarning", "ResourceWarning", "pytest.PytestUnraisableExceptionWarning")
]
ROWS, SIZE = 103, 16
X = torch.randn(ROWS, 6, generator=torch.Generator().manual_seed(0)).double()
STORE = 80 * 2**20
"""Bytes of Ray's object store; it takes no fewer than 75 MiB."""


@pytest.fixture(scope="module", autouse=True)
def _ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Start Ray with the fewest processes, and have its workers find it3 where this process does."""
    path = os.pathsep.join([str(PYTHON_FOLDER), os.environ.get("PYTHONPATH", "")])
    ray.init(
        num_cpus=4,  # as tasks are counted, whatever this machine has
        num_gpus=torch.cuda.device_count(),
        include_dashboard=False,
        object_store_memory=STORE,
        runtime_env={"env_vars": {"PYTHONPATH": path, "PYTHONWARNINGS": "default"}},
        logging_level="error",
    )
    context = DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> IT3Engine:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    made = IT3Engine(model, "0", optimization_parameters={"num_steps": 2, "lr": 0.05})
    made.fit([(X, torch.randn(ROWS, 3).double())], nn.functional.mse_loss)
    return made.eval()


@pytest.fixture(scope="module")
def file(engine: IT3Engine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("engine") / "engine.it3"
    engine.save(path, X)
    return path


@pytest.fixture(scope="module")
def data() -> Dataset:
    """Rows in 7 blocks, of 14 and 15, in float32, as which the inputs are exact."""
    rows = [{"id": number, "x": X[number].float().numpy()} for number in range(ROWS)]
    return ray.data.from_items(rows, override_num_blocks=7).materialize()


def column(rows: list[dict[str, Any]], name: str) -> Tensor:
    return torch.from_numpy(np.array([row[name] for row in rows]))


def in_batches(data: Dataset) -> Dataset:
    return data.repartition(target_num_rows_per_block=SIZE, strict=True)


def test_the_same_batches_give_what_one_process_gives(
    engine: IT3Engine, file: Path, data: Dataset, device: str
) -> None:
    given = {"file": str(file), "inputs": "x", "uncertainty": "doubt"}
    adapted = in_batches(data).map_batches(
        Adapter,
        fn_constructor_kwargs=given,
        batch_size=SIZE,
        compute=ActorPoolStrategy(size=2),
        num_gpus=0.5 if device == "cuda" else None,
    )
    rows = adapted.take_all()
    assert [row["id"] for row in rows] == list(range(ROWS))
    one_by_one = [engine.adapt(batch) for batch in X.split(SIZE)]
    expected = torch.cat([adaptation.prediction for adaptation in one_by_one])
    torch.testing.assert_close(column(rows, "prediction"), expected, rtol=0, atol=1e-6)
    doubt = torch.cat([(adaptation.second - adaptation.first).norm(dim=1) for adaptation in one_by_one])
    torch.testing.assert_close(column(rows, "doubt"), doubt, rtol=0, atol=1e-6)
    other = engine.predict(X.split(SIZE - 2))
    assert (other - expected).abs().max() > 1e-3  # so that batches matter here


def test_samples_by_themselves_need_no_batches(engine: IT3Engine, file: Path, data: Dataset) -> None:
    given = {"file": str(file), "inputs": ["x"], "options": {"per_sample": True}, "prediction": "y"}
    rows = data.map_batches(
        Adapter, fn_constructor_kwargs=given, batch_size=SIZE, compute=ActorPoolStrategy(size=2)
    ).take_all()
    expected = torch.cat([engine.adapt(row[None]).prediction for row in X])
    torch.testing.assert_close(column(rows, "y"), expected, rtol=0, atol=1e-6)


class DiesOnce(Adapter):
    """Kills its worker in the third batch that a worker is given, the first time."""

    def __init__(self, mark: str, **given: Any) -> None:
        super().__init__(**given)
        self.mark, self.count = Path(mark), 0

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        self.count += 1
        done = super().__call__(batch)
        if self.count == 3 and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return done


def test_a_killed_worker_loses_nothing_and_repeats_nothing(
    engine: IT3Engine, file: Path, data: Dataset, tmp_path: Path
) -> None:
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    given = {"file": str(file), "inputs": "x", "mark": str(tmp_path / "died")}
    adapted = in_batches(data).map_batches(
        DiesOnce, fn_constructor_kwargs=given, batch_size=SIZE, compute=ActorPoolStrategy(size=1)
    )
    adapted.write_parquet(str(tmp_path / "out"))
    assert (tmp_path / "died").exists()
    rows = sorted(ray.data.read_parquet(str(tmp_path / "out")).take_all(), key=lambda row: row["id"])
    assert [row["id"] for row in rows] == list(range(ROWS))
    expected = engine.predict(X.split(SIZE))
    torch.testing.assert_close(column(rows, "prediction"), expected, rtol=0, atol=1e-6)


class Weighed(Adapter):
    """Tells the most memory that its process ever held, in bytes."""

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        out = super().__call__(batch)
        return out | {"peak": np.full(len(batch["x"]), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)}


def is_spilled() -> bool:
    """Whether Ray has written objects to the disk, as its store was full."""
    address = ray.get_runtime_context().gcs_address  # as others may run on this machine
    return "Spilled" in ray._private.internal_api.memory_summary(address, stats_only=True)


def test_memory_is_bounded_for_data_that_is_larger_than_the_store(file: Path) -> None:
    """Rows are made as they are needed, 4 times what the store holds."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    width, count = 4096, 4 * STORE // (4096 * 4)

    def make(batch: dict[str, Any]) -> dict[str, Any]:
        return {"x": X[batch["id"] % ROWS].numpy(), "large": np.ones((len(batch["id"]), width), np.float32)}

    made = ray.data.range(count, override_num_blocks=count // 256).map_batches(make, batch_size=256)
    given = {"file": str(file), "inputs": "x", "options": {"num_steps": 1}}
    adapted = made.map_batches(Weighed, fn_constructor_kwargs=given, batch_size=256, compute=ActorPoolStrategy(size=1))
    peaks = []
    for batch in adapted.iter_batches(batch_size=256):
        assert batch["large"].shape[1] == width
        peaks += batch["peak"].tolist()
    assert len(peaks) == count
    # After a quarter it still gets 3 times the store. Pages of the store that it maps count for it: one store may come.
    assert max(peaks) - peaks[count // 4] < STORE
    assert not is_spilled()
    made.materialize()
    assert is_spilled()  # so that it would have been seen


def test_lists_in_parquet(engine: IT3Engine, file: Path, tmp_path: Path) -> None:
    pd.DataFrame({"x": list(X.numpy())}).to_parquet(tmp_path / "lists.parquet")
    data = ray.data.read_parquet(str(tmp_path / "lists.parquet"))
    given = {"file": str(file), "inputs": "x"}
    adapted = data.map_batches(
        Adapter, fn_constructor_kwargs=given, batch_size=ROWS, compute=ActorPoolStrategy(size=1)
    ).take_all()
    torch.testing.assert_close(column(adapted, "prediction"), engine.adapt(X).prediction, rtol=0, atol=1e-6)


# What needs no workers: the class is called as a worker calls it.


def adapter(path: Path, **given: Any) -> Adapter:
    return Adapter(**{"file": path, "inputs": "x"} | given)


def batch_of(rows: int) -> dict[str, Any]:
    return {"x": X[:rows].numpy(), "id": np.arange(rows)}


@pytest.mark.parametrize("inputs", ["x", ["x"], ("x",), {"input": "x"}])
def test_ways_to_name_inputs(inputs: Any, file: Path, engine: IT3Engine) -> None:
    out = adapter(file, inputs=inputs)(batch_of(5))
    assert list(out) == ["x", "id", "prediction"]
    torch.testing.assert_close(torch.from_numpy(out["prediction"]), engine.adapt(X[:5]).prediction, rtol=0, atol=1e-6)


def test_what_is_given_stays_as_it_was(file: Path) -> None:
    batch = batch_of(5)
    batch["x"].flags.writeable = False  # as Ray's are
    adapter(file)(batch)
    assert list(batch) == ["x", "id"]
    np.testing.assert_array_equal(batch["x"], X[:5].numpy())


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({"options": {"online": True}}, ValueError, r"with copy_model=False \(online=True\) a result depends on all"),
        ({"options": {"steps": 3}}, (TypeError, ValueError), "steps"),
        ({"inputs": []}, TypeError, "inputs must be the name of a column"),
        ({"inputs": 3}, TypeError, "inputs must be the name of a column"),
        ({"uncertainty": "prediction"}, ValueError, "are both to be written to the column 'prediction'"),
        ({"file": "missing.it3"}, RuntimeError, "missing.it3"),
    ],
)
def test_bad_settings_are_told(given: dict[str, Any], error: Any, text: str, file: Path) -> None:
    with pytest.raises(error, match=text):
        adapter(file, **given)


def test_bad_batches_are_told(file: Path) -> None:
    with pytest.raises(ValueError, match=r"no column 'z'; its columns are 'x', 'id'"):
        adapter(file, inputs="z")(batch_of(3))
    with pytest.raises(ValueError, match=r"has a column 'id' already"):
        adapter(file, prediction="id")(batch_of(3))
    ragged = np.array([np.zeros(2), np.zeros(3)], dtype=object)
    with pytest.raises(ValueError, match=r"'x' is an array of object"):
        adapter(file)({"x": ragged})
    missing = np.array([np.zeros(6), None], dtype=object)
    with pytest.raises(ValueError, match=r"'x' is an array of object"):
        adapter(file)({"x": missing})
    with pytest.raises(TypeError, match=r"a batch is a pandas.*leave batch_format"):
        adapter(file)(pd.DataFrame({"x": [1.0]}))


def test_batches_that_blocks_cut_are_warned_of_once(file: Path) -> None:
    it = adapter(file)
    it(batch_of(16))
    it(batch_of(7))  # may be the last one
    with pytest.warns(UserWarning, match=r"several batches have fewer rows than others \(14 and 16\)"):
        it(batch_of(14))
    it(batch_of(15))
    alone = adapter(file, options={"per_sample": True})
    for rows in (16, 14, 15, 13):
        alone(batch_of(rows))


def test_trying_a_batch_by_hand_starts_no_ray(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "get_gpu_ids", lambda: pytest.fail("this would start Ray"))
    adapter(file)(batch_of(3))


def test_a_gpu_that_torch_cannot_use_is_told(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "get_gpu_ids", lambda: [0])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match=r"gives this worker a GPU, which torch cannot use"):
        adapter(file)
