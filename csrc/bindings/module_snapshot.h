#pragma once

#include <string>
#include <vector>

#include <torch/csrc/utils/pybind.h>

namespace it3::python {

/// What a trace of a torch.nn.Module depends on: its submodules, their classes, train/eval flags, parameters and
/// buffers (which, not their values), hooks, and their other attributes, containers among them one level deep.
class ModuleSnapshot {
 public:
  explicit ModuleSnapshot(const py::object& root);

  /// What was changed since. Fast, because each call of an engine asks.
  enum class Change { none, attributes, structure };
  Change change() const;

  /// Why the module cannot be traced, whatever its forward() does; empty if nothing is known.
  const std::string& obstacle() const { return obstacle_; }

 private:
  /// An object. It is held, so that no other one can be at its address.
  struct Fact {
    Fact(py::handle seen, bool with_version);
    bool equals(py::handle now, bool with_version) const;

    py::object object;
    bool is_tensor;
    std::int64_t detail = 0;  // of a tensor
  };

  enum class Role { parts, mode, hooks, attribute };

  /// One item of a module's __dict__.
  struct Item {
    py::object name;
    Role role;
    Fact value;
    std::vector<Fact> inside;  // what a container holds
  };

  struct ModuleFacts {
    py::object module;
    py::object type;
    std::vector<Item> items;
  };

  static Role role_of(py::handle name);
  static std::vector<Fact> inside(py::handle value, Role role);
  static bool is_same_inside(py::handle value, const Item& item);
  std::string find_obstacle() const;

  std::vector<ModuleFacts> modules_;
  std::string obstacle_;
};

}  // namespace it3::python
