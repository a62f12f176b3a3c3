#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>
#include <c10/core/ScalarType.h>

// The Open Inference Protocol, which is KServe's V2, with tensors in JSON:
// https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md

namespace serving {

/// An input or output of the model, as it is told to clients. The first dimension of tensors may have any size.
struct TensorInfo {
  std::string name;
  c10::ScalarType dtype;
  std::vector<std::int64_t> shape;
};

/// The outputs that a request may ask for.
inline constexpr const char* prediction_name = "prediction";
inline constexpr const char* uncertainty_name = "uncertainty";

/// A request that cannot be served as it is, in words for the client.
struct BadRequest : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct InferRequest {
  std::optional<std::string> id = {};
  std::vector<at::Tensor> inputs = {};  // in the model's order; FP32, FP64 or INT64 as they were sent
  std::vector<std::string> outputs = {prediction_name};
  /// The parameter "timeout" in microseconds, as NVIDIA's Triton has it.
  std::optional<std::chrono::microseconds> timeout = {};

  bool wants_uncertainty() const;
};

/// Reads the body of a request. Raises BadRequest.
InferRequest parse_infer_request(const std::string& body, const std::vector<TensorInfo>& inputs);

/// The body that answers it. Tensors are on the CPU.
std::string infer_response(
    const std::string& model,
    const std::optional<std::string>& id,
    const std::vector<std::pair<std::string, at::Tensor>>& outputs);

std::string server_metadata();
std::string model_metadata(
    const std::string& model, const std::vector<TensorInfo>& inputs, const std::vector<TensorInfo>& outputs);
std::string model_readiness(const std::string& model, bool is_ready);
std::string error_body(const std::string& text);

/// "FP32 [2, 13]".
std::string to_text(c10::ScalarType dtype, const std::vector<std::int64_t>& shape);

}  // namespace serving
