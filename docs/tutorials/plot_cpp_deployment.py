"""
Train in Python, adapt in C++
=============================

What you get: an engine that was trained in Python, in one file, and a C++ program of 20 lines that adapts it and
predicts what Python predicts. Where the program runs, no Python is needed: libtorch and libit3 do it all. The data are
mlxtend's houses of Boston. The page builds the program where it finds CMake and a compiler, and says so where it does
not.

The network predicts y0. An *embedder*, a small network that is trained with it, feeds y0 back into one layer, which
gives a second prediction, y1. Adapting takes a few optimizer steps that bring the two together, without labels.
:doc:`/terms` explains the words.
"""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import it3
import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from mlxtend.data import boston_housing_data
from torch import nn

folder = Path(tempfile.mkdtemp())

# %%
# Train in Python
# ---------------
#
# The network predicts the prices of houses from 13 numbers each. A quarter of the entries of the test's houses are
# missing, and hold the mean. The picture shows where the engine cuts the network, in C++ as in Python: the layer and
# what comes before it run once for y0 and y1 together, and what is behind it twice.

rows, prices = (torch.tensor(part, dtype=torch.float32) for part in boston_housing_data())
order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
rows = ((rows - rows.mean(0)) / rows.std(0))[order]
prices = ((prices - prices.mean()) / prices.std())[order, None]
is_missing = torch.rand(rows[350:].shape, generator=torch.Generator().manual_seed(1)) < 0.25
x, y = rows[350:].where(~is_missing, 0.0), prices[350:]

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(13, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
engine = it3.IT3Engine(model, "0", optimization_parameters={"num_steps": 2, "lr": 1e-3})
engine.fit(list(zip(rows[:350].split(35), prices[:350].split(35), strict=True)), F.mse_loss, epochs=20)
engine.eval()
it3.plots.cut(engine, x, ax=plt.figure(figsize=(6, 4), layout="constrained").gca())

# %%
# Ask first whether it is worth deploying
# ---------------------------------------
#
# What the program will do in production has to beat what is simpler. Here it does not: 0 steps, the network as it is,
# are as good, and to fill entries in from the nearest houses is better by far, as :doc:`plot_why_it_may_not_help`
# shows. The page goes on all the same, to show how an engine gets to C++. With ``num_steps`` 0, a saved engine predicts
# without adapting.

batches = list(zip(x.split(26), y.split(26), strict=True))
print(it3.evaluate(engine, batches, "mse", {"adapted": {}}, reference=prices[:350]))

# %%
# Save
# ----
#
# One file holds the network, the embedder, the options and what the engine noted, such as whether it was trained.
# ``example_inputs`` show the shapes of inputs; the engine compares what it saves with the original. Names of options
# are the same in C++.

engine.save(folder / "engine.pt", example_inputs=x)
in_python = it3.load(folder / "engine.pt").adapt(x).prediction
print(
    f"{(folder / 'engine.pt').stat().st_size / 1024:.0f} KiB, read back it differs by "
    f"{(in_python - engine.adapt(x).prediction).abs().max():.1e}"
)

# %%
# A program of 20 lines
# ---------------------
#
# It reads an engine and inputs, and writes the adapted prediction, as tensors in the files of ``torch.save``.

(folder / "adapt.cpp").write_text(r"""
#include <fstream>
#include <iostream>
#include <iterator>

#include <torch/serialize.h>

#include <it3/it3.h>

int main(int, char** argv) {
  it3::Engine engine = it3::Engine::load(argv[1]);
  std::ifstream file(argv[2], std::ios::binary);
  const std::vector<char> bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  const at::Tensor x = torch::pickle_load(bytes).toTensor();
  const it3::Adaptation adapted = engine.adapt(x);
  const std::vector<char> result = torch::pickle_save(adapted.prediction);
  std::ofstream(argv[3], std::ios::binary).write(result.data(), result.size());
  std::cout << adapted.steps() << " steps on " << x.size(0) << " houses, loss " << adapted.loss().item<float>() << '\n'
            << "mean uncertainty " << engine.uncertainty(x).mean().item<float>() << '\n';
}
""")
(folder / "CMakeLists.txt").write_text("""
cmake_minimum_required(VERSION 3.25)
project(deployment LANGUAGES CXX)
find_package(it3 REQUIRED)
add_executable(adapt adapt.cpp)
target_link_libraries(adapt PRIVATE it3::it3)
""")
torch.save(x, folder / "x.pt")

# %%
# ``find_package`` finds the library that the Python package carries, by ``it3.cmake_prefix_path``, and its torch.

build = folder / "build"
has_compiler = shutil.which("cmake") and any(map(shutil.which, ("c++", "g++", "clang++")))
if has_compiler:
    for command in (
        ["cmake", "-S", folder, "-B", build, f"-DCMAKE_PREFIX_PATH={it3.cmake_prefix_path}"],
        ["cmake", "--build", build],
        [build / "adapt", folder / "engine.pt", folder / "x.pt", folder / "prediction.pt"],
    ):
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    print(done.stdout)
    in_cpp = torch.load(folder / "prediction.pt")
    difference = (in_cpp - in_python).abs().max().item()
    print(f"C++ and Python differ by {difference:.1e}")
    assert difference < 1e-6
else:
    print("There is no CMake, or no C++ compiler, on this machine: the program was not built.")

# %%
# Without a program of your own
# -----------------------------
#
# ``it3-adapt`` adapts an engine to a .npy file; its own options can replace those of the engine. ``make it3-adapt``
# builds it from it3's sources, or, with the library, ``cmake --preset release && cmake --build --preset release``.

np.save(folder / "x.npy", x.numpy())
it3_adapt = os.environ.get("IT3_ADAPT") or shutil.which("it3-adapt")
if it3_adapt:
    command = [it3_adapt, folder / "engine.pt", "--input", folder / "x.npy", "--output", folder / "y.npy"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    print(done.stdout)
    difference = np.abs(np.load(folder / "y.npy") - in_python.numpy()).max()
    print(f"it3-adapt and Python differ by {difference:.1e}")
    assert difference < 1e-6
else:
    print("it3-adapt is not on this machine: it comes with it3's sources, see above.")

shutil.rmtree(folder)

# %%
# The other format
# ----------------
#
# ``engine.save("engine.pt2", example_inputs=x, format="aoti")`` writes no TorchScript but a program of
# ``torch.export``, with the steps of adapting compiled to machine code by torch's AOTInductor. ``it3::Engine::load``
# and ``it3-adapt`` read it like the other. It is worth it for small networks, whose time goes into calls of
# operations: :doc:`/performance` has the times. Compiling takes longer than a page like this may, so it is not shown.
# The code is for one version of torch and one kind of processor: elsewhere the engine is read with a warning, and
# runs without the compiled programs. Of each input only the first dimension may differ in size from the example.
#
# Where to go on: ``examples/cpp`` in it3's sources trains in C++ alone, and has a network of its own.
# :doc:`/reliability` tells what happens where files are damaged, disks full and processes killed. :doc:`plot_streams`
# is about weights that are kept from batch to batch, as a service would; ``engine.options.copy_model``,
# ``engine.drift()`` and ``engine.reset()`` are the same in C++.
