#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <unordered_set>
#include <vector>

#include <torch/csrc/utils/pybind.h>

#include <it3/backend/swapped_weights.h>

namespace it3::python {

/// Has all modules in a tree in eval mode while it lives. Their flags are set, and set back, without calling train(),
/// which may do more.
class EvalScope {
 public:
  explicit EvalScope(py::handle root);
  /// Acquires the GIL.
  ~EvalScope();
  EvalScope(const EvalScope&) = delete;
  EvalScope& operator=(const EvalScope&) = delete;

 private:
  struct Flag {
    py::object module;
    py::object value;
  };
  std::vector<Flag> flags_;
};

/// What modules, or other objects, hold in Python beside parameters and buffers: attributes, and what is in the
/// containers and plain objects among them.
class KeptState {
 public:
  using VisitTensor = std::function<void(const at::Tensor& tensor)>;

  /// @param root  a torch.nn.Module, for all modules in it, or another object
  /// @param visit  is called for each tensor there
  explicit KeptState(py::handle root, const VisitTensor& visit = nullptr);

  /// Puts back what was assigned since.
  void restore() const;

  /// Whether something that was assigned since hangs on a graph of autograd.
  bool holds_graph() const;

 private:
  struct Kept {
    py::object container;  // a dict, list or set
    py::object before;     // a copy
  };

  void walk(py::handle value, int depth, const VisitTensor& visit);
  static Kept kept(py::handle container);

  std::vector<Kept> kept_;
  std::vector<Kept> hooks_;
  std::unordered_set<PyObject*> seen_;  // while it is made
};

/// Holds a model's state while it lives, and puts it back at its end. Tensors among it hold copies meanwhile.
class SwappedState {
 public:
  explicit SwappedState(py::handle model);
  /// Acquires the GIL.
  ~SwappedState();
  SwappedState(const SwappedState&) = delete;
  SwappedState& operator=(const SwappedState&) = delete;

  /// Swaps in a copy of a tensor's values too.
  void swap_out(const at::Tensor& tensor);

  /// Goes back to the state as it was given if something that was left there since hangs on a graph of autograd, which
  /// can be gone through but once.
  void drop_graphs();

 private:
  struct Swap {
    at::Tensor tensor;
    at::Tensor own;  // shares the storage that it had
    bool requires_grad;
    std::int64_t version;
  };

  static void give_back(const Swap& swapped) noexcept;

  std::vector<Swap> swapped_;
  KeptValues unlent_;  // of what was made in inference mode
  std::unique_ptr<KeptState> state_;
};

}  // namespace it3::python
