#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

#include <it3/options.h>

#include "job.h"
#include "protocol.h"

namespace serving {

/// A saved engine whose calls start from the saved weights, each. Any thread may call it.
class Model {
 public:
  /// Raises c10::Error if the file, the device or an option is not accepted, or where the engine has inputs that the
  /// protocol cannot send.
  Model(
      const std::string& path,
      const std::string& device,
      const std::vector<std::pair<std::string, it3::OptionValue>>& options);
  ~Model();

  const std::vector<TensorInfo>& inputs() const { return inputs_; }
  std::vector<TensorInfo> outputs() const;

  /// Why samples of different requests cannot be computed in one call as if each were alone. Empty if they can.
  std::string why_not_together() const;

  struct Result {
    Answer answer;
    std::int64_t steps;
  };

  /// Adapts to a batch. Raises BadRequest for inputs that the network does not take, and c10::Error.
  Result adapt(const std::vector<at::Tensor>& inputs, bool with_uncertainty);

  /// The first calls of a network take long. Zeros are as good as other inputs for that.
  void warm_up();

 private:
  struct Engine;
  std::unique_ptr<Engine> engine_;
  std::vector<TensorInfo> inputs_;
  std::vector<bool> are_keywords_;
  std::optional<TensorInfo> prediction_;
};

}  // namespace serving
