#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>

#include <it3/backend/export.h>

namespace it3 {

/// Where a tensor lies in what a model or a layer returns: indices of tuples and lists, field names of named tuples and
/// keys of dicts, from the outside in. Indices below zero count from the end. An empty path is the value itself.
using OutputPath = std::vector<std::variant<std::int64_t, std::string>>;

/// A path as people write it: its parts with dots between them, "logits" or "1.0". Names that could be taken for
/// something else are in double quotes, `"0"."a.b"`.
IT3_API std::string to_text(const OutputPath& path);

/// The path that to_text() made a text of. Raises c10::ValueError for a text that is none.
IT3_API OutputPath parse_output_path(std::string_view text);

/// A tensor in a value, and where.
struct PlacedTensor {
  OutputPath path;
  at::Tensor tensor;
};

/// The tensors in a value, in tuples, lists and dicts, in their order.
IT3_API std::vector<PlacedTensor> tensors_with_paths(const c10::IValue& value);

/// The tensor at a path; without a path the value's only tensor. Raises c10::ValueError, naming the tensors that are
/// there, if there is none, or if there are several and no path.
///
/// @param what  for the error: whose value it is, "the model's output"
/// @param option  for the error: what the path is given as, "output"
IT3_API at::Tensor tensor_at(
    const c10::IValue& value,
    const std::optional<OutputPath>& path,
    std::string_view what = "the model's output",
    std::string_view option = "output");

}  // namespace it3
