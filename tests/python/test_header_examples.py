"""The examples in the C++ headers compile, and run as they stand there."""

import re
from collections import OrderedDict
from pathlib import Path

import it3
import pytest
import torch
from installed import ROOT, build_program, run
from torch import nn

HEADERS = ROOT / "csrc/include/it3"

SHARED = """
#undef NDEBUG
#include <cassert>
#include <cmath>
#include <iostream>

#include <torch/torch.h>
#include <torch/script.h>

#include <it3/it3.h>

/// Examples do nothing that the library, or torch, warns of.
struct Warnings : c10::WarningHandler {
  void process(const c10::Warning& warning) override { throw std::runtime_error(warning.msg()); }
};

/// What examples have without saying where it comes from. Each example has it anew.
struct Given {
  torch::nn::Sequential model{
      {{"encoder", torch::nn::Linear(13, 64)}, {"relu", torch::nn::ReLU()}, {"head", torch::nn::Linear(64, 3)}}};
  at::Tensor x = torch::randn({8, 13}), y = torch::randn({8, 3}), classes = torch::randint(3, {8});
  it3::Engine engine{std::make_shared<it3::ModuleNetwork>(model, "encoder")};
  Given() { engine.losses(x, y); }
};

template <typename Example>
void run(const char* place) {
  try {
    Example().run();
  } catch (const std::exception& error) {
    std::cout << "FAILED: " << place << ": " << error.what() << std::endl;
  }
}
"""


def examples() -> list[tuple[str, int, str]]:
    """Return the header, the line and the code of each example."""
    found = []
    for header in sorted(HEADERS.rglob("*.h")):
        text = header.read_text()
        for block in re.finditer(r"^ */// @code\{\.cpp\}\n(.*?)^ */// @endcode$", text, re.MULTILINE | re.DOTALL):
            line = text.count("\n", 0, block.start(1)) + 1
            code = re.sub(r"^ */// ?", "", block[1], flags=re.MULTILINE)
            found.append((str(header.relative_to(ROOT)), line, code))
    return found


def program(examples: list[tuple[str, int, str]]) -> str:
    """Return a program that runs each example as a function of its own; compilers name the lines of the headers."""
    parts = [SHARED]
    for i, (header, line, code) in enumerate(examples):
        parts.append(f'struct Example{i} : Given {{ void run() {{\n#line {line} "{header}"\n{code}}} }};\n')
    calls = [f'  run<Example{i}>("{header}:{line}");\n' for i, (header, line, _) in enumerate(examples)]
    begin = "int main() {\n  Warnings warnings;\n  c10::WarningUtils::set_warning_handler(&warnings);\n"
    return "".join([*parts, begin, *calls, "}\n"])


def write_files() -> None:
    """Write the files that examples read."""
    x = torch.randn(8, 13)
    model = nn.Sequential(OrderedDict(encoder=nn.Linear(13, 64), relu=nn.ReLU(), head=nn.Linear(64, 3)))
    torch.jit.script(model).save("model.pt")
    torch.export.save(torch.export.export(model, (x,)), "model.pt2")
    torch.export.save(torch.export.export(nn.MSELoss(), (torch.randn(8, 3), torch.randn(8, 3))), "distance.pt2")
    engine = it3.IT3Engine(model, "encoder")
    engine(x, target=torch.randn(8, 3))
    engine.eval().save("engine.pt", x)


def test_the_examples_of_the_headers_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_files()
    throws = ("one.h", 7, 'engine.options.set("num_steps", std::int64_t{-1});\n')
    warns = ("other.h", 1, "engine.set_trained(false);\nengine.adapt(x);\n")
    told = run(build_program(program([*examples(), throws, warns]), tmp_path))
    first, second = re.findall("^FAILED: (.*)$", told, re.MULTILINE)
    assert first == "one.h:7: num_steps must be a whole number, 0 or more, not -1"
    assert second.startswith("other.h:1: this engine was never trained")


def test_each_header_for_programs_has_an_example() -> None:
    headers = {str(header.relative_to(ROOT)) for header in HEADERS.glob("*.h")}
    assert headers - {header for header, *_ in examples()} == {"csrc/include/it3/it3.h"}  # which includes the others
