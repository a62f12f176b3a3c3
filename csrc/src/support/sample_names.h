#pragma once

#include <cstdint>
#include <string>

#include <ATen/ATen.h>
#include <c10/util/StringUtil.h>

namespace it3::detail {

/// "sample 3", or "samples 0, 3, 7 and 12 more": where a condition of each sample, (B,) of booleans, holds.
///
/// @param first  the number of the first of them
inline std::string names_of_samples(const at::Tensor& conditions, std::int64_t first = 0) {
  constexpr std::int64_t most = 10;
  const at::Tensor indices = conditions.nonzero().flatten().cpu();
  const std::int64_t count = indices.size(0);
  std::string names = count == 1 ? "sample " : "samples ";
  for (std::int64_t i = 0; i < std::min(count, most); ++i) {
    names += c10::str(i == 0 ? "" : ", ", first + indices[i].item<std::int64_t>());
  }
  if (count > most) names += c10::str(" and ", count - most, " more");
  return names;
}

}  // namespace it3::detail
