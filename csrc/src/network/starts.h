#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <vector>

#include <ATen/core/Tensor.h>
#include <c10/util/intrusive_ptr.h>

#include <it3/network.h>

namespace it3::detail {

/// The weights that models had before calls kept adapted ones in them. They belong to the models: whoever adapts one
/// goes back to the same start. May be used from several threads.
class Starts {
 public:
  /// A parameter's start. The number tells it from the ones before and after.
  struct Start {
    at::Tensor value;
    std::uint64_t number;
  };

  /// Those of all models in this process.
  static Starts& of_all_models();

  /// The start of a parameter, if it has one that still counts.
  std::optional<Start> find(const at::Tensor& parameter);

  /// Whether the start of this number, of this parameter, which need not live any more, still counts.
  bool counts(const at::TensorImpl* parameter, std::uint64_t number);

  /// Makes an earlier start, as read from a file, a parameter's own, unless it has one.
  void adopt(const at::Tensor& parameter, const at::Tensor& value);

  /// The starts of parameters, which from now on count or end together. Those that have none start now.
  std::vector<Start> begin(const std::vector<NamedParameter>& parameters);

  /// Ends the starts of parameters that somebody else changed since the last note(), and those that began with them.
  void end_changed(const std::vector<NamedParameter>& parameters);

  /// Whether end_changed() would end any.
  bool has_changed(const std::vector<NamedParameter>& parameters);

  /// These parameters hold what a call left in them.
  void note(const std::vector<NamedParameter>& parameters);

  /// Ends the starts of parameters, and writes them into the parameters.
  void go_back(const std::vector<NamedParameter>& parameters);

 private:
  struct Group {
    bool has_ended = false;
  };
  struct Entry {
    c10::weak_intrusive_ptr<at::TensorImpl, at::UndefinedTensorImpl> parameter;  // keeps its address from others
    Start start;
    std::int64_t version;
    const void* address;
    std::shared_ptr<Group> group;
  };

  Entry* entry_of(const at::Tensor& parameter);
  Entry& make(const at::Tensor& parameter, at::Tensor value);
  static bool is_changed(const Entry& entry, const at::Tensor& parameter);

  std::mutex mutex_;
  std::unordered_map<const at::TensorImpl*, Entry> entries_;
  std::uint64_t last_number_ = 0;
};

}  // namespace it3::detail
