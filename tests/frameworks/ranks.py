"""What torchrun runs in each process: `torchrun ... ranks.py NAME FOLDER DEVICE`. Results go to files in the folder."""

import os
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import it3
import torch
import torch.distributed as dist
from it3 import IT3Engine
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.torch_version import TorchVersion
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

GENERATOR = torch.Generator().manual_seed(0)
X, Y = (torch.randn(48, size, generator=GENERATOR, dtype=torch.float64) for size in (6, 3))
STEPS = [(X[start : start + 16], Y[start : start + 16]) for start in (0, 16, 32)] * 2
BATCHES = [X[start : start + 7] for start in range(0, 48, 7)]  # the last one is smaller
OPTIONS = {"num_steps": 2, "lr": 0.05}
CAN_SHARD = torch.__version__ >= "2.13"
DEVICE = sys.argv[3] if __name__ == "__main__" else "cpu"


def new_engine() -> IT3Engine:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    return IT3Engine(model, "0", optimization_parameters=OPTIONS)


def shaped_engine() -> IT3Engine:
    """An engine with the same weights in every process."""
    engine = new_engine()
    torch.manual_seed(1)
    engine.adapt(X[:2], num_steps=0)
    return engine.to(DEVICE)


def trained_engine() -> IT3Engine:
    engine = shaped_engine()
    engine.is_trained = True
    return engine.eval()


def share(batch: Tensor) -> Tensor:
    """This process's part of a batch: equal parts, so that the mean of their means is that of the batch."""
    return batch.chunk(dist.get_world_size())[dist.get_rank()].to(DEVICE)


def take_step(engine: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
    optimizer.zero_grad()
    prediction, loss_ttt = engine(share(x), target=share(y))
    (F.mse_loss(prediction, share(y)) + loss_ttt).backward()
    optimizer.step()


def train(engine: nn.Module) -> None:
    optimizer = torch.optim.SGD(engine.parameters(), 0.1, momentum=0.9)
    for x, y in STEPS:
        take_step(engine, optimizer, x, y)


def error_of(call: Callable[[], Any]) -> str:
    try:
        call()
    except RuntimeError as error:
        return str(error)
    return "no error"


def shard(module: nn.Module, *parts: nn.Module) -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh  # noqa: PLC0415  (takes long, as what is imported below)
    from torch.distributed.fsdp import fully_shard  # noqa: PLC0415

    mesh = init_device_mesh(DEVICE, (dist.get_world_size(),))
    for each in (*parts, module):
        fully_shard(each, mesh=mesh)
    return module


def ddp() -> dict[str, Any]:
    """Train in DDP."""
    engine = shaped_engine()
    train(DistributedDataParallel(engine))
    fresh = DistributedDataParallel(new_engine().to(DEVICE))
    return {"state": engine.state_dict(), "fresh": error_of(lambda: fresh(share(X), target=share(Y)))}


def with_older_torch(call: Callable[[], Any]) -> Any:
    with mock.patch.object(torch, "__version__", TorchVersion("2.12.1+cpu")):
        return call()


def fsdp() -> dict[str, Any]:
    """Train in FSDP2, and adapt with the whole weights afterwards."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict  # noqa: PLC0415
    from torch.distributed.fsdp import FullyShardedDataParallel  # noqa: PLC0415
    from torch.distributed.fsdp.wrap import ModuleWrapPolicy  # noqa: PLC0415

    engine = shaped_engine()
    shard(engine, engine.model[0], engine.model[2], engine.embedder)
    train(engine)
    older = shaped_engine()
    FullyShardedDataParallel(
        older, auto_wrap_policy=ModuleWrapPolicy({nn.Linear}), device_id=torch.device(DEVICE), use_orig_params=True
    )
    state = get_model_state_dict(engine, options=StateDictOptions(full_state_dict=True))
    plain = new_engine().to(DEVICE)
    plain.load_state_dict(state)
    x = X.to(DEVICE)
    calls = {
        "adapt": lambda: engine.adapt(x),
        "eval": lambda: engine.eval()(x),
        "uncertainty": lambda: engine.uncertainty(x),
        "predict": lambda: engine.predict([x]),
        "save": lambda: engine.save("engine.it3", x),
        "adapt in FSDP1": lambda: older.adapt(x),
        "train with an older torch": lambda: with_older_torch(lambda: engine.train()(x, target=Y.to(DEVICE))),
    }
    return {
        "state": state,
        "is_trained": plain.is_trained,
        "adapted": plain.eval()(x)[0],
        "errors": {name: error_of(call) for name, call in calls.items()},
        "fresh": error_of(lambda: shard(new_engine().to(DEVICE))),
        "fresh in a part": error_of(lambda: shard(nn.Sequential(new_engine().to(DEVICE)))),
    }


def adapt() -> dict[str, Any]:
    """Adapt this process's samples, as a sampler deals them out, and this process's batches."""
    engine = trained_engine()
    sampler = DistributedSampler(range(len(X)), shuffle=False)
    loader = DataLoader(TensorDataset(torch.arange(len(X)), X), 8, sampler=sampler)
    mine: Any = [(numbers, engine(x.to(DEVICE))[0].cpu()) for numbers, x in loader]
    numbers_of_batches = range(dist.get_rank(), len(BATCHES), dist.get_world_size())
    batches = {number: engine(BATCHES[number].to(DEVICE))[0].cpu() for number in numbers_of_batches}
    every: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(every, (mine, batches))
    return {
        "by sampler": [batch for of_rank, _ in every for batch in of_rank],
        "by batch": {number: prediction for _, of_rank in every for number, prediction in of_rank.items()},
    }


def adapt_in_ddp() -> dict[str, Any]:
    """Adapt through the wrapper, counting how often gradients are averaged over processes."""
    engine, count = trained_engine(), [0]
    parallel = DistributedDataParallel(engine)

    def counted(_: object, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        count[0] += 1
        future: torch.futures.Future[Tensor] = torch.futures.Future()
        future.set_result(bucket.buffer())
        return future

    parallel.register_comm_hook(None, counted)
    before = {name: weight.clone() for name, weight in engine.named_parameters()}
    prediction = parallel.eval()(BATCHES[dist.get_rank()].to(DEVICE))[0].cpu()
    after_adapting = count[0]
    is_as_before = all(torch.equal(weight, before[name]) for name, weight in engine.named_parameters())
    has_gradients = any(weight.grad is not None for weight in engine.parameters())
    loss = parallel.train()(X.to(DEVICE), target=Y.to(DEVICE))
    (loss[0].sum() + loss[1]).backward()
    every: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(every, prediction)
    counts = (after_adapting, count[0])
    return {"predictions": every, "counts": counts, "is_as_before": is_as_before, "has_gradients": has_gradients}


def together() -> None:
    """All of the above, in one start of processes."""
    folder = Path(sys.argv[2])
    for use in (ddp, *([fsdp] if CAN_SHARD else []), adapt, adapt_in_ddp):
        torch.save(use(), folder / f"{use.__name__}-{dist.get_rank()}.pt")


def trainer() -> None:
    """Train twice by the Trainer of transformers, and predict."""
    from it3.frameworks.transformers import EngineTrainer  # noqa: PLC0415
    from transformers import TrainingArguments  # noqa: PLC0415

    folder, engine = Path(sys.argv[2]), shaped_engine()
    rows = [{"input": x, "labels": y} for x, y in zip(X, Y, strict=True)]
    sizes = {"per_device_train_batch_size": 8, "per_device_eval_batch_size": 8, "num_train_epochs": 2}
    quiet = {"use_cpu": True, "report_to": [], "save_strategy": "no", "disable_tqdm": True}
    args = TrainingArguments(str(folder / "out"), logging_steps=1, learning_rate=0.1, **sizes, **quiet)
    it = EngineTrainer(engine, args, criterion=F.mse_loss, train_dataset=rows)
    it.train()
    it.train()
    predicted = it.predict(rows)
    log, prediction = it.state.log_history, torch.tensor(predicted.predictions)
    found = {"state": engine.state_dict(), "prediction": prediction, "log": log}
    torch.save(found, folder / f"trainer-{dist.get_rank()}.pt")


class DiesOnce(it3.Callback):
    """Notes the batches that were adapted to, and kills the process in the third, the first time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_prediction(self, batch: int, adaptation: it3.Adaptation) -> None:
        rank = dist.get_rank()
        with (self.folder / f"adapted-{rank}.txt").open("a") as file:
            print(batch, file=file)
        if rank == 1 and batch == 2:
            die_once(self.folder / "died while adapting")


def die_once(mark: Path) -> None:
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)


def killed() -> None:
    """Train, and adapt, with a process that is killed in the middle of either; torchrun starts all anew."""
    folder, rank = Path(sys.argv[2]), dist.get_rank()
    engine, snapshot = shaped_engine(), folder / "snapshot.pt"
    parallel = DistributedDataParallel(engine)
    optimizer = torch.optim.SGD(parallel.parameters(), 0.1, momentum=0.9)
    done = 0
    if snapshot.exists():
        saved = torch.load(snapshot)
        engine.load_state_dict(saved["engine"])
        optimizer.load_state_dict(saved["optimizer"])
        done = saved["done"]
    for number, (x, y) in enumerate(STEPS[done:], done):
        take_step(parallel, optimizer, x, y)
        if rank == 0:
            with (folder / "trained.txt").open("a") as file:
                print(number, file=file)
            saved = {"engine": engine.state_dict(), "optimizer": optimizer.state_dict(), "done": number + 1}
            torch.save(saved, folder / "snapshot.partial")
            (folder / "snapshot.partial").replace(snapshot)
        dist.barrier()
        if number == 3 and rank == 1:
            die_once(folder / "died while training")
    engine.eval().predict(BATCHES[rank::2], path=folder / f"predictions-{rank}.npy", callbacks=[DiesOnce(folder)])


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    if DEVICE == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if DEVICE == "cuda" else "gloo")
    {"together": together, "killed": killed, "trainer": trainer}[sys.argv[1]]()
    dist.destroy_process_group()
