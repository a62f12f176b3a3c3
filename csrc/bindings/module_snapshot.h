#pragma once

#include <string>
#include <vector>

#include <torch/csrc/utils/pybind.h>

#include "fact.h"

namespace it3::python {

/// What a trace of a torch.nn.Module depends on: its submodules, their classes, parameters and buffers (which, not
/// their values), hooks, and their other attributes, containers among them one level deep. Not on train/eval flags: it
/// is made in eval mode.
class ModuleSnapshot {
 public:
  explicit ModuleSnapshot(const py::object& root);

  /// What was changed since. Fast, because each call of an engine asks.
  enum class Change { none, attributes, structure };
  Change change() const;

  /// Why the module cannot be traced, whatever its forward() does; empty if nothing is known.
  const std::string& obstacle() const { return obstacle_; }

 private:
  enum class Role { parts, hooks, attribute };

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
