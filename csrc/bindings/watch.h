#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <c10/core/DefaultDtype.h>
#include <torch/csrc/utils/pybind.h>

#include "fact.h"

namespace it3::python {

/// What code has read of Python beside the attributes of modules, so that a change is seen. it3.cutting.reads finds out
/// what.
class Watch {
 public:
  /// @param facts  each a tuple (kind, holder, key): what is looked at, as it is now
  ///     ("item", dict, key)       one entry, which may be missing
  ///     ("class", type, name)     an attribute of a class, as its instances find it
  ///     ("slot", object, member)  what a member descriptor of the object's class gives
  ///     ("cell", cell, None)      what a closure's cell holds
  ///     ("function", function, None)  its code and defaults
  ///     ("contents", container, None) all that a dict, list, tuple, set or deque holds
  ///     ("bytes", object, None)   the memory behind it, such as a NumPy array's
  ///     ("tensor", tensor, None)  its version and memory, and its values if they are few; of tensors that others
  ///                               hold, only which ones they are counts
  explicit Watch(const py::list& facts);

  /// Whether anything is not as it was. Fast, because each call of an engine asks.
  bool has_changed() const;

  std::size_t size() const { return facts_.size(); }

 private:
  enum class Kind { item, type, slot, cell, function, contents, bytes, tensor };

  struct Seen {
    Kind kind;
    py::object holder;
    py::object key;
    std::vector<Fact> values;  // a null object where there is nothing
    std::string bytes;
  };

  template <typename Visit>
  static bool for_each_value(Kind kind, py::handle holder, py::handle key, const Visit& visit);
  static Kind kind_of(const std::string& name);
  static void look(Seen& seen);
  static bool is_same(const Seen& seen);

  std::vector<Seen> facts_;
  caffe2::TypeMeta default_dtype_;  // of torch
};

/// Asks a watch whether anything has changed; null for none. The last copy may be destroyed without the GIL.
std::function<bool()> asking(const std::shared_ptr<Watch>& watch);

}  // namespace it3::python
