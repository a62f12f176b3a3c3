#include "method/functions_apart.h"

#include <algorithm>
#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>

#include <ATen/record_function.h>
#include <c10/util/Exception.h>

namespace it3::detail {
namespace {

/// Notes the first of some weights that an operation takes in this thread while it lives.
class WeightWatch {
 public:
  /// @param arguments  what the function is called with, which may be a weight
  WeightWatch(const std::vector<NamedParameter>& weights, std::initializer_list<at::Tensor> arguments) {
    for (const auto& weight : weights) names_.emplace(storage_of(weight.tensor), &weight.name);
    for (const at::Tensor& argument : arguments) names_.erase(storage_of(argument));
    names_.erase(nullptr);
    at::RecordFunctionCallback look([](const at::RecordFunction& operation) -> std::unique_ptr<at::ObserverContext> {
      for (const c10::IValue& input : read_by(operation.name(), operation.inputs())) {
        for (WeightWatch* watch = current; watch != nullptr; watch = watch->outer_) watch->look_at(input);
      }
      return nullptr;
    });
    handle_ = at::addThreadLocalCallback(look.needsInputs(true).scopes({at::RecordScope::FUNCTION}));
    outer_ = std::exchange(current, this);  // last, as what may fail leaves none behind
  }
  ~WeightWatch() {
    at::removeCallback(handle_);
    current = outer_;
  }
  WeightWatch(const WeightWatch&) = delete;
  WeightWatch& operator=(const WeightWatch&) = delete;

  void check(const char* function) const {
    TORCH_CHECK_VALUE(
        found_ == nullptr, function, " computes with the model's weight '", *found_,
        "', which adapts. This model is not cut at the layer, so its weights are changed in place during the call, "
        "and ",
        function,
        " would see the changed ones. Give it a copy of the weight, or leave the weight out with the option "
        "'parameters'");
  }

  /// Takes note of a value if it is a weight.
  void look_at(const c10::IValue& input) {
    if (input.isTensor()) {
      const auto known = names_.find(storage_of(input.toTensor()));
      if (found_ == nullptr && known != names_.end()) found_ = known->second;
    } else if (input.isList()) {
      for (const c10::IValue& item : input.toListRef()) look_at(item);
    }
  }

 private:
  /// The inputs of an operation whose values it reads: not those by whose shape, type or device it makes another
  /// tensor.
  static at::ArrayRef<const c10::IValue> read_by(std::string_view operation, at::ArrayRef<const c10::IValue> inputs) {
    if (operation.ends_with("_like") || operation.starts_with("aten::new_")) return {};
    return operation.ends_with("_as") ? inputs.slice(0, std::min<std::size_t>(inputs.size(), 1)) : inputs;
  }

  /// Null for a tensor without one.
  static const c10::StorageImpl* storage_of(const at::Tensor& tensor) {
    return tensor.defined() && tensor.has_storage() ? tensor.storage().unsafeGetStorageImpl() : nullptr;
  }

  static inline thread_local WeightWatch* current = nullptr;

  WeightWatch* outer_ = nullptr;
  std::unordered_map<const c10::StorageImpl*, const std::string*> names_;
  const std::string* found_ = nullptr;
  at::CallbackHandle handle_ = 0;
};

template <typename Function>
Function watched(const char* name, Function function, const std::vector<NamedParameter>& weights) {
  return [name, function = std::move(function), &weights](const at::Tensor& a, const at::Tensor& b) {
    WeightWatch watch(weights, {a, b});
    at::Tensor result = function(a, b);
    watch.look_at(result);
    watch.check(name);
    return result;
  };
}

}  // namespace

Method functions_apart(Method method, const std::vector<NamedParameter>& adapted) {
  method.embed = watched("the embedder", std::move(method.embed), adapted);
  method.combine = watched("combine_fn", std::move(method.combine), adapted);
  if (method.distance.name.empty()) {
    method.distance.to_prediction = watched("distance_fn", std::move(method.distance.to_prediction), adapted);
  }
  return method;
}

}  // namespace it3::detail
