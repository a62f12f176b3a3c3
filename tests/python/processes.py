"""Uses of engines by threads and processes, each a function: `python processes.py NAME KINDS ARGUMENTS`.

They are run as programs, so that what hangs can be ended, and forks start from a process that did nothing before.
"""

import copy
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import it3
import torch
from it3 import IT3Engine
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

CHILD_SECONDS = 8
REFUSAL = "Unable to handle autograd's threading in combination with fork-based multiprocessing"
"""What torch says of a backward pass in a fork of a process that ran one, where there is a device such as CUDA's."""


class Whole(nn.Module):
    """Runs whole, as it branches on values."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.fc = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.layer(x).tanh()
        return self.fc(-hidden if bool(hidden.sum() > 1e9) else hidden)


class Cut(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.layer, self.fc = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layer(self.first(x).tanh()).tanh())


MODELS: dict[str, Callable[[], nn.Module]] = {"whole": Whole, "cut": Cut, "script": lambda: torch.jit.script(Cut())}
BATCHES = [torch.randn(5, 6, generator=torch.Generator().manual_seed(i)) for i in range(16)]


def engine_of(kind: str, **arguments: Any) -> IT3Engine:
    torch.manual_seed(0)
    given = {"optimization_parameters": {"num_steps": 2, "lr": 0.01}} | arguments
    engine = IT3Engine(MODELS[kind]().eval(), "layer", **given).eval()
    engine.is_trained = True
    engine.uncertainty(BATCHES[0])
    return engine


def unused_engine_of(kind: str) -> IT3Engine:
    """Make one that has not seen any inputs, and gives the same results."""
    embedder = copy.deepcopy(engine_of(kind).embedder)
    torch.manual_seed(0)
    options = {"num_steps": 2, "lr": 0.01}
    engine = IT3Engine(MODELS[kind]().eval(), "layer", embedder, optimization_parameters=options).eval()
    engine.is_trained = True
    return engine


def results_of(engine: IT3Engine) -> Tensor:
    return torch.stack([engine.adapt(x).prediction for x in BATCHES])


def threads(kind: str, calls: str) -> None:
    """Eight threads get what one gets, and the model is as it was."""
    engine = engine_of(kind)
    before = copy.deepcopy(engine.model.state_dict())
    expected = results_of(engine)
    starts = threading.Barrier(8)

    def use(thread: int) -> None:
        starts.wait()
        for i in range(int(calls)):
            number = (i + thread) % len(BATCHES)
            assert torch.equal(engine(BATCHES[number])[0], expected[number])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(use, range(8)))
    torch.testing.assert_close(engine.model.state_dict(), before, rtol=0, atol=0)
    assert all(p.requires_grad and p.grad is None for p in engine.model.parameters())


def two_engines(kind: str, calls: str) -> None:
    """Two engines around one model, with other options, are used by a thread each."""
    one = engine_of(kind)
    other = IT3Engine(one.model, "fc", optimization_parameters={"num_steps": 1, "anchor": "frozen", "lr": 0.1}).eval()
    other.is_trained = True
    expected = [results_of(engine) for engine in (one, other)]
    starts = threading.Barrier(2)

    def use(engine: IT3Engine, right: Tensor) -> None:
        starts.wait()
        for i in range(int(calls)):
            assert torch.equal(engine(BATCHES[i % len(BATCHES)])[0], right[i % len(BATCHES)])

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(use, (one, other), expected))


class Adapting(Dataset[Tensor]):
    """Has the predictions of a network that adapts to each batch."""

    def __init__(self, engine: IT3Engine) -> None:
        self.engine = engine

    def __len__(self) -> int:
        return len(BATCHES)

    def __getitem__(self, index: int) -> Tensor:
        return self.engine.adapt(BATCHES[index]).prediction

    def collate(self, predictions: list[Tensor]) -> Tensor:
        """Adapt once more, to what is not there in __getitem__."""
        return torch.stack([*predictions, self.engine.adapt(sum(BATCHES)).prediction])


def loader(kind: str, context: str) -> None:
    """Workers of a DataLoader adapt, by an engine that was used before, or not."""
    engine: Any = engine_of(kind)
    expected, in_collate = results_of(engine), engine.adapt(sum(BATCHES)).prediction
    if context == "spawn" and kind == "script":  # TorchScript modules cannot be pickled
        engine = Loaded(engine)
    for used in (engine, unused_engine_of(kind)) if context == "fork" else (engine,):
        dataset = Adapting(used)
        workers = DataLoader(
            dataset,
            4,
            num_workers=2,
            multiprocessing_context=context,
            collate_fn=dataset.collate,
            timeout=4 * CHILD_SECONDS,
        )
        actual = list(workers)
        assert torch.equal(torch.cat([batch[:-1] for batch in actual]), expected)
        assert all(torch.equal(batch[-1], in_collate) for batch in actual)
        assert torch.equal(results_of(used), expected)


def in_fork(work: Callable[[], Tensor]) -> Tensor:
    """Return what a function gives in a child; CHILD_SECONDS after the fork, the child is ended.

    Raises
    ------
    RuntimeError
        For what the child raised.
    """
    reading, writing = os.pipe()
    told = Path(os.environ["TMPDIR"]) / "error"
    child = os.fork()
    if child == 0:
        signal.alarm(CHILD_SECONDS)
        code = 1
        try:
            with os.fdopen(writing, "wb") as pipe:
                pickle.dump(work().numpy(), pipe)
            code = 0
        except BaseException as error:
            Path(f"{told}.{os.getpid()}").write_text(f"{type(error).__name__}: {error}")
        os._exit(code)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        content = pipe.read()
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code != -signal.SIGALRM, "the child hangs"
    if code != 0:
        file = Path(f"{told}.{child}")
        raise RuntimeError(f"the child ended with {code}: {file.read_text() if file.exists() else 'it told nothing'}")
    return torch.from_numpy(pickle.loads(content))


def refuses_forks() -> bool:
    """Whether torch, without it3, runs no backward pass in a fork of a process that ran one."""

    def backward() -> Tensor:
        x = torch.ones(2, requires_grad=True)
        x.square().sum().backward()
        return x.grad

    gradient = backward()
    try:
        assert torch.equal(in_fork(backward), gradient)
    except RuntimeError as error:
        return REFUSAL in str(error)
    return False


def fork(kind: str, first: str) -> None:
    """A child and its parent use an engine, whoever is first, and children of children."""
    expected = results_of(engine_of(kind))
    engine = unused_engine_of(kind)
    if first == "parent":
        assert torch.equal(results_of(engine), expected)
    assert torch.equal(in_fork(lambda: results_of(engine)), expected)
    assert torch.equal(in_fork(lambda: in_fork(lambda: results_of(engine))), expected)
    assert torch.equal(results_of(engine), expected)
    assert torch.equal(in_fork(lambda: torch.stack([engine_of(kind).adapt(x).prediction for x in BATCHES])), expected)

    def train() -> Tensor:
        optimizer = torch.optim.SGD(engine.train().parameters(), 0.1)
        for x in BATCHES:
            optimizer.zero_grad()
            engine(x, torch.ones(5, 3))[1].backward()
            optimizer.step()
        return results_of(engine.eval())

    trained = in_fork(train)
    assert torch.equal(results_of(engine), expected)  # a child's weights are its own
    assert torch.equal(train(), trained)


def fork_online(kind: str) -> None:
    """Adapted weights, and the optimizer, go on in both."""
    online = {"copy_model": False, "anchor": "ema", "num_steps": 1, "lr": 0.01}
    engines = [engine_of(kind, optimization_parameters=online) for _ in range(2)]
    results_of(engines[0])
    results_of(engines[1])
    expected = results_of(engines[0])
    assert torch.equal(in_fork(lambda: results_of(engines[1])), expected)
    assert torch.equal(results_of(engines[1]), expected)


def fork_inside(kind: str, use: str) -> None:
    """A fork while another thread is in the middle of a call: the child uses the engine, or another one."""
    inside, may_end, parent = threading.Event(), threading.Event(), os.getpid()
    is_slow = threading.local()

    def distance(a: Tensor, b: Tensor) -> Tensor:
        if getattr(is_slow, "is_set", False) and os.getpid() == parent:
            inside.set()
            may_end.wait(2 * CHILD_SECONDS)
        return (a - b).square().mean()

    engine = engine_of(kind, distance_fn=distance)
    other = engine_of(kind)
    plain, of_other, expected = engine.model(BATCHES[0]).detach(), results_of(other), results_of(engine)

    def adapt_slowly() -> Tensor:
        is_slow.is_set = True
        return engine.adapt(BATCHES[0]).prediction

    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(adapt_slowly)
        assert inside.wait(CHILD_SECONDS)
        try:
            if use == "same":
                assert torch.equal(in_fork(lambda: results_of(engine)), expected)
            elif use == "model":
                assert torch.equal(in_fork(lambda: engine.model(BATCHES[0]).detach()), plain)
            else:
                assert torch.equal(in_fork(lambda: results_of(other)), of_other)
        finally:
            may_end.set()
        assert torch.equal(call.result(), expected[0])
    assert torch.equal(results_of(engine), expected)


class Loaded:
    """An engine that travels by the path of its file."""

    def __init__(self, engine: IT3Engine) -> None:
        self.path = os.path.join(os.environ["TMPDIR"], f"{time.monotonic_ns()}.pt")
        engine.save(self.path, BATCHES[0])
        self.engine = it3.load(self.path)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["engine"], name)

    def __getstate__(self) -> str:
        return self.path

    def __setstate__(self, path: str) -> None:
        self.path, self.engine = path, it3.load(path)


def _work(engine: Any, answers: Any) -> None:
    torch.set_num_threads(1)
    answers.put(results_of(engine).numpy())


def spawn(kind: str) -> None:
    """A process that is spawned gets the engine by pickle, or by the path of its file."""
    engine = engine_of(kind)
    given = [Loaded(engine)] if kind == "script" else [engine]
    if kind == "cut":
        given.append(Loaded(engine))
    context = multiprocessing.get_context("spawn")
    for one in given:
        expected = results_of(one)
        answers = context.Queue()
        child = context.Process(target=_work, args=(one, answers))
        child.start()
        assert torch.equal(torch.from_numpy(answers.get(timeout=2 * CHILD_SECONDS)), expected)
        child.join(CHILD_SECONDS)
        assert child.exitcode == 0
        assert torch.equal(results_of(one), expected)


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    _, name, kinds, *rest = sys.argv
    for each in kinds.split(","):
        try:
            globals()[name](each, *rest)
        except RuntimeError as error:
            if REFUSAL not in str(error) or not refuses_forks():
                raise
