"""What is fuzzed: each draws an input, gives it to it3, and says what went wrong."""

import os
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import it3
import numpy as np
import torch
from it3 import IT3Engine
from torch import nn

from fuzz.mutations import damage, forge
from fuzz.process import Outcome, run_function, run_program

RESUMING = ("--batch-size", "2", "--online", "--save-adapted", "no/a.pt", "--resume")
MEGABYTES = 250
"""What a damaged small file may take beside what a good one takes."""


@dataclass
class Rig:
    """A folder with good files, and what it3 makes of them."""

    folder: Path
    binary: str
    engine: bytes
    array: bytes
    tensors: bytes
    checkpoint: bytes
    partial: str
    prediction: torch.Tensor
    program_megabytes: float
    function_megabytes: float

    @staticmethod
    def make(folder: Path) -> "Rig":
        """Save an engine and inputs."""
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).eval()
        engine = IT3Engine(model, "0", nn.Linear(3, 8), distance_fn="js", neutral=0.5).eval()
        engine.is_trained = True
        x = torch.randn(6, 5)
        engine.save(folder / "good.pt", x)
        np.save(folder / "good.npy", x.numpy())
        torch.save({"input": x}, folder / "inputs.pt")
        binary = os.environ["IT3_ADAPT"]
        rig = Rig(folder, binary, b"", b"", b"", b"", "", it3.load(folder / "good.pt").adapt(x).prediction, 0, 0)
        rig.engine, rig.array = (folder / "good.pt").read_bytes(), (folder / "good.npy").read_bytes()
        rig.tensors = (folder / "inputs.pt").read_bytes()
        done = rig.adapt("good.pt", "good.npy")
        assert done.code == 0, done.err
        rig.program_megabytes = done.megabytes + MEGABYTES
        rig.function_megabytes = run_function(lambda: rig.predict(folder / "good.pt")).megabytes + MEGABYTES
        rig.make_checkpoint()
        return rig

    def make_checkpoint(self) -> None:
        """Keep the checkpoint of a run that fails when all but its last file is written."""
        done = self.adapt("good.pt", "good.npy", *RESUMING)
        assert done.code == 1, done.out
        self.checkpoint = (self.folder / "y.npy.resume").read_bytes()
        self.partial = next(iter(self.folder.glob("y.npy.partial-*"))).name
        (self.folder / "kept").write_bytes((self.folder / self.partial).read_bytes())
        (self.folder / "no").mkdir()
        self.forget_runs()

    def forget_runs(self) -> None:
        """Remove what --resume leaves."""
        for path in (*self.folder.glob("*.partial-*"), *self.folder.glob("*.resume")):
            path.unlink()

    def adapt(self, engine: str, inputs: str, *arguments: str) -> Outcome:
        """Run it3-adapt."""
        (self.folder / "y.npy").unlink(missing_ok=True)
        return run_program([self.binary, engine, "--input", inputs, "--output", "y.npy", *arguments], self.folder)

    def predict(self, path: Path) -> str:
        """Load an engine in this process, and adapt; the difference to the good one's prediction."""
        x = torch.from_numpy(np.load(self.folder / "good.npy"))
        prediction = it3.load(path).adapt(x).prediction
        return "same" if torch.equal(prediction, self.prediction) else "other"

    def file_fault(self, done: Outcome, expected: torch.Tensor | None) -> str | None:
        """Return what is wrong with a run of it3-adapt on a damaged file; None as the expectation: anything may be."""
        if fault := done.fault(self.program_megabytes):
            return fault
        output = self.folder / "y.npy"
        if list(self.folder.glob("*.partial*")):
            return "leaves a partial file"
        if done.code == 0:
            found = torch.from_numpy(np.load(output))
            is_same = expected is None or (found.shape == expected.shape and torch.allclose(found, expected, atol=1e-6))
            return None if is_same else "gives another result with exit code 0"
        if output.exists():
            return "leaves an output beside an error"
        return line_fault(done)


def line_fault(done: Outcome) -> str | None:
    """Return what is wrong with an error of it3-adapt."""
    lines = [line for line in done.err.splitlines() if not line.startswith("it3-adapt: warning: ")]
    if len(lines) != 1 or not lines[0].startswith("it3-adapt: "):
        return f"does not say in one line what is wrong: {done.err[:300]!r}"
    if done.out:
        return "writes to the standard output beside an error"
    return "says nothing" if lines[0].rstrip().endswith((":", "it3-adapt:")) else None


Fault = tuple[str, bytes]
"""What went wrong, and the input."""


def engine_in_program(rig: Rig, draw: random.Random) -> Fault | None:
    """A damaged engine, in it3-adapt."""
    content = damage(draw, rig.engine)
    (rig.folder / "bad.pt").write_bytes(content)
    fault = rig.file_fault(rig.adapt("bad.pt", "good.npy"), rig.prediction)
    return (fault, content) if fault else None


def engine_in_python(rig: Rig, draw: random.Random) -> Fault | None:
    """A damaged engine, in it3.load."""
    return _loaded(rig, damage(draw, rig.engine), is_forged=False)


def forged_engine(rig: Rig, draw: random.Random) -> Fault | None:
    """An engine that somebody has changed, in it3.load."""
    return _loaded(rig, forge(draw, rig.engine), is_forged=True)


def _loaded(rig: Rig, content: bytes, is_forged: bool) -> Fault | None:
    path = rig.folder / "bad.pt"
    path.write_bytes(content)
    done = run_function(lambda: rig.predict(path))
    fault = done.fault(rig.function_megabytes)
    if fault is None and done.code == 0 and done.out != "same" and not is_forged:
        fault = "gives another result"
    if fault is None and done.code > 1:
        fault = f"raises what is no Exception: {done.err[:300]}"
    if fault is None and done.code == 1 and not is_forged:
        is_clear = done.err.startswith("RuntimeError: ") and str(path) in done.err and done.err.count("\n") == 0
        fault = None if is_clear else f"does not say in one line what is wrong: {done.err[:300]!r}"
    return (fault, content) if fault else None


def array(rig: Rig, draw: random.Random) -> Fault | None:
    """A damaged .npy file, whose numbers have no checksum."""
    content = damage(draw, rig.array[: 128 if draw.random() < 0.8 else None])
    content += rig.array[128:] if len(content) <= 128 else b""
    path = rig.folder / "bad.npy"
    path.write_bytes(content)
    done = rig.adapt("good.pt", "bad.npy")
    expected = None
    if done.code == 0:
        try:
            x = torch.from_numpy(np.load(path)).float()
        except ValueError as error:
            return f"reads what NumPy refuses: {error}", content
        expected = it3.load(rig.folder / "good.pt").adapt(x).prediction
    fault = rig.file_fault(done, expected)
    return (fault, content) if fault else None


def tensors(rig: Rig, draw: random.Random) -> Fault | None:
    """A damaged .pt file of inputs."""
    is_forged = draw.random() < 0.4
    content = (forge if is_forged else damage)(draw, rig.tensors)
    (rig.folder / "bad.pt").write_bytes(content)
    fault = rig.file_fault(rig.adapt("good.pt", "bad.pt"), None if is_forged else rig.prediction)
    return (fault, content) if fault else None


def checkpoint(rig: Rig, draw: random.Random) -> Fault | None:
    """A damaged file of --resume."""
    is_forged = draw.random() < 0.4
    content = (forge if is_forged else damage)(draw, rig.checkpoint)
    (rig.folder / "y.npy.resume").write_bytes(content)
    (rig.folder / rig.partial).write_bytes((rig.folder / "kept").read_bytes())
    done = rig.adapt("good.pt", "good.npy", *RESUMING)
    rig.forget_runs()
    errors = "".join(line for line in done.err.splitlines(keepends=True) if "goes on after" not in line)
    done = replace(done, err=errors)
    batches = torch.from_numpy(np.load(rig.folder / "good.npy")).split(2)
    engine = it3.load(rig.folder / "good.pt")
    expected = torch.cat([engine.adapt(batch, copy_model=False).prediction for batch in batches])
    fault = rig.file_fault(done, None if is_forged else expected)
    return (fault, content) if fault else None


NUMBERS = (
    "0",
    "1",
    "-1",
    "3",
    "0.5",
    "1e-3",
    "1e308",
    "-1e308",
    "nan",
    "inf",
    "-inf",
    "9" * 19,
    "9" * 400,
    "1e",
    "0x10",
)
TEXTS = (
    "",
    " ",
    "none",
    "true",
    "all",
    "norm",
    "adam",
    "frozen",
    "cpu",
    "cuda:0",
    "meta",
    "0",
    "2",
    "é",
    "\udcff",
    "*",
    "[",
)
NAMES = (
    "good.npy",
    "good.pt",
    "inputs.pt",
    ".",
    "..",
    "/dev/null",
    "no/y.npy",
    "z.npy",
    "z.pt",
    "y.txt",
    "x" * 300 + ".npy",
)
OPTIONS = {
    "--steps": NUMBERS,
    "--lr": NUMBERS,
    "--optimizer": TEXTS,
    "--anchor": TEXTS,
    "--norm-statistics": TEXTS,
    "--quantile": NUMBERS,
    "--batch-size": NUMBERS,
    "--threads": NUMBERS,
    "--seed": NUMBERS,
    "--device": TEXTS,
    "--layer": TEXTS,
    "--in-dims": (*NUMBERS, "0,none", "input=0", "x=0,1", "none", "="),
    "--uncertainty": NAMES,
    "--save-adapted": NAMES,
    "--calibrate": NAMES,
    "--input": NAMES,
    "--output": NAMES,
}
FLAGS = (
    "--online",
    "--per-batch-reset",
    "--per-sample",
    "--json",
    "--resume",
    "--describe",
    "--help",
    "--version",
    "--no",
    "-x",
    "extra",
)


def command_line(rig: Rig, draw: random.Random) -> Fault | None:
    """A drawn command line."""
    arguments = ["good.pt", "--input", "good.npy", "--output", "y.npy"] if draw.random() < 0.9 else []
    for _ in range(draw.randrange(1, 5)):
        if draw.random() < 0.25:
            arguments.append(draw.choice(FLAGS))
        elif draw.random() < 0.3:
            arguments += ["--set", f"{draw.choice(OPTION_NAMES)}={draw.choice((*NUMBERS, *TEXTS))}"]
        else:
            option = draw.choice(sorted(OPTIONS))
            arguments += [option, draw.choice(OPTIONS[option])]
    if "--steps" in arguments or any("num_steps" in argument for argument in arguments):
        arguments += ["--steps", "2"]  # many steps are no fault
    good = {"good.pt": rig.engine, "good.npy": rig.array}
    (rig.folder / "y.npy").unlink(missing_ok=True)
    command = [os.fsencode(argument) for argument in (rig.binary, *arguments)]
    done = run_program([os.fsdecode(part) for part in command], rig.folder)
    (rig.folder / "inputs.pt").write_bytes(rig.tensors)  # which may have been named as an output
    fault = done.fault(rig.program_megabytes)
    if fault is None and done.code not in (0, 1, 2):
        fault = f"ends with the exit code {done.code}"
    if fault is None and done.code != 0:
        fault = line_fault(done)
    if fault is None and any((rig.folder / name).read_bytes() != content for name, content in good.items()):
        fault = "writes over a file that it was to read"
        for name, content in good.items():
            (rig.folder / name).write_bytes(content)
    rig.forget_runs()
    for name in ("z.npy", "z.pt"):
        (rig.folder / name).unlink(missing_ok=True)
    return (fault, " ".join(map(repr, arguments)).encode()) if fault else None


OPTION_NAMES = (*it3.Options().keys(), "nope", "")
VALUES: tuple[Any, ...] = (
    *(0, 1, -1, 3, 0.5, 1e-3, 1e308, float("nan"), float("inf"), 10**30, True, False, None, "", "adam", "all", "norm"),
    *(
        "frozen",
        "nope",
        [],
        [1],
        ["0.*"],
        (0.9, 0.99),
        (0.9,),
        {},
        {"a": 1},
        torch.ones(2),
        torch.tensor(1),
        b"x",
        object(),
    ),
)


def options(rig: Rig, draw: random.Random) -> Fault | None:
    """A drawn dictionary of options."""
    drawn = {draw.choice(OPTION_NAMES): draw.choice(VALUES) for _ in range(draw.randrange(1, 4))}
    if isinstance(drawn.get("num_steps"), int):
        drawn["num_steps"] = min(drawn["num_steps"], 3)
    x = torch.from_numpy(np.load(rig.folder / "good.npy"))

    def adapt() -> str:
        engine = it3.load(rig.folder / "good.pt")
        before = [p.clone() for p in engine.model.parameters()]
        try:
            engine.adapt(x, **drawn)
        except (ValueError, TypeError, RuntimeError) as error:
            after = list(engine.model.parameters())
            if not all(torch.equal(a, b) for a, b in zip(before, after, strict=True)):
                return "an error has changed weights"
            return "" if str(error) and "\n" not in str(error) else f"{type(error).__name__} in many lines: {error}"
        return ""

    done = run_function(adapt)
    fault = done.fault(rig.function_megabytes) or done.out or (done.err and f"raises {done.err[:300]}") or None
    return (fault, repr(drawn).encode()) if fault else None


TARGETS: dict[str, tuple[Callable[[Rig, random.Random], Fault | None], int]] = {
    "engine in it3.load": (engine_in_python, 40),
    "forged engine in it3.load": (forged_engine, 25),
    "engine in it3-adapt": (engine_in_program, 8),
    ".npy in it3-adapt": (array, 10),
    ".pt in it3-adapt": (tensors, 10),
    "file of --resume": (checkpoint, 8),
    "command line": (command_line, 10),
    "options": (options, 10),
}
"""By name, with how often they are drawn."""
