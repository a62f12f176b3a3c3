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

/// Which tensor of a model's or a layer's output is meant: the indices of tuples and lists, field names of named tuples
/// and keys of dicts that lead to it, from the outside in. Negative indices count from the end. An empty path means the
/// output itself.
///
/// @code{.cpp}
/// it3::OutputPath path{std::int64_t{1}, "logits"};  // output[1]["logits"]
/// assert(it3::to_text(path) == "1.logits" && it3::parse_output_path("1.logits") == path);
/// c10::IValue output = c10::ivalue::Tuple::create({c10::IValue(x), c10::IValue(y)});
/// assert(it3::tensor_at(output, it3::OutputPath{std::int64_t{-1}}).is_same(y));
/// for (const auto& placed : it3::tensors_with_paths(output)) std::cout << it3::to_text(placed.path) << '\n';
/// @endcode
using OutputPath = std::vector<std::variant<std::int64_t, std::string>>;

/// A path as text: its parts with dots between them, such as "logits" or "1.0". A name that has dots in it or looks
/// like an index is put in double quotes: `"0"."a.b"`.
IT3_API std::string to_text(const OutputPath& path);

/// The path of a text, as to_text() writes it.
///
/// @throws c10::ValueError  for a text that is not a path
IT3_API OutputPath parse_output_path(std::string_view text);

/// A tensor in a value, and the path that leads to it.
struct PlacedTensor {
  OutputPath path;    ///< where it is
  at::Tensor tensor;  ///< the tensor
};

/// All tensors in a value, which may be nested tuples, lists and dicts, in their order.
IT3_API std::vector<PlacedTensor> tensors_with_paths(const c10::IValue& value);

/// The tensor at a path; without a path, the only tensor of the value.
///
/// @param value  the output of a model or layer
/// @param path  which of its tensors. Unset: its only one
/// @param what  what the value is called in an error
/// @param option  how the path was given, for an error
/// @throws c10::ValueError  naming the tensors of the value, if there is none at the path, or several and no path
/// @throws c10::TypeError  if there is no path, and the value holds no tensor
IT3_API at::Tensor tensor_at(
    const c10::IValue& value,
    const std::optional<OutputPath>& path,
    std::string_view what = "the model's output",
    std::string_view option = "output");

}  // namespace it3
