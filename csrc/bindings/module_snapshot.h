#pragma once

#include <string>
#include <vector>

#include <torch/csrc/utils/pybind.h>

namespace it3::python {

/// What a trace of a torch.nn.Module depends on: its submodules, their classes, train/eval flags, parameters and
/// buffers (which, not their values), hooks, and their other attributes, containers among them one level deep.
class ModuleSnapshot {
 public:
  explicit ModuleSnapshot(py::object root);

  /// What was changed since. Attributes are looked at only where the structure is the same.
  enum class Change { none, attributes, structure };
  Change change() const;

  /// Why the module cannot be traced, whatever its forward() does; empty if nothing is known.
  const std::string& obstacle() const { return seen_.obstacle; }

 private:
  /// A thing that was seen at its place in the walk. What is held cannot be replaced by another at its address.
  struct Fact {
    py::object object;
    std::int64_t detail;  // of a tensor

    bool operator==(const Fact& other) const;
  };

  struct Seen {
    std::vector<Fact> structure, attributes;
    std::string obstacle;
  };

  static Seen walk(py::handle root);

  py::object root_;
  Seen seen_;
};

}  // namespace it3::python
