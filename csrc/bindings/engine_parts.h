#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>

#include <torch/csrc/utils/pybind.h>

#include <it3/backend/graphs.h>
#include <it3/backend/layout.h>
#include <it3/method.h>
#include <it3/network.h>

#include "module_tree.h"
#include "runners.h"
#include "script_from_python.h"
#include "shared_model_lock.h"

namespace it3::python {

/// The parts of an engine, as Python gives them.
struct EngineParts {
  std::shared_ptr<Runners> runners;
  py::object embedder;
  bool embeds_to_features;  // whether embedder takes (prediction, features), or the prediction alone
  py::object combine_fn;    // None for broadcast_add
  py::object distance_fn;   // a function or a name
  Layout prediction_layout;
  Layout features_layout;
  std::optional<at::Tensor> neutral;
  py::object in_dims;  // in torch.vmap's convention, or None
  bool feeds_probabilities;
  std::shared_ptr<Graphs> graphs = std::make_shared<Graphs>();

  // The functions that are TorchScript modules. Python would run those by an executor whose results depend on how often
  // it has run.
  Embed script_embedder = script_function_from(embedder);
  Combine script_combine = script_function_from(combine_fn);
  DistanceFunction script_distance = script_function_from(distance_fn);
};

/// Swaps in copies of the buffers of an embedder of the user's own, if it is an eager module. Meanwhile, other threads
/// wait to use it.
class EmbedderBuffers {
 public:
  explicit EmbedderBuffers(const EngineParts& parts);

 private:
  std::optional<SharedModelLock::Hold> hold_;  // ends last
  std::optional<SwappedBuffers> buffers_;
};

/// Makes a default embedder that had no shape yet empty again if it is destroyed by an exception. Meanwhile other
/// threads wait to use it.
class UnbuiltOnError {
 public:
  explicit UnbuiltOnError(const EngineParts& parts);
  ~UnbuiltOnError();
  UnbuiltOnError(const UnbuiltOnError&) = delete;
  UnbuiltOnError& operator=(const UnbuiltOnError&) = delete;

 private:
  py::object embedder_;  // null if it has a shape, or is another one
  std::optional<SharedModelLock::Hold> hold_;
  int exceptions_;
};

/// The method of one call. Borrows the Python functions from `parts`, which must outlive it.
Method method_of(const EngineParts& parts, const NetworkCall& call);

}  // namespace it3::python
