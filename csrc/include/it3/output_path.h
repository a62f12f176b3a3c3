#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

namespace it3 {

/// Where a tensor lies in what a model or a layer returns: indices of tuples and lists and keys of dicts, from the
/// outside in. An empty path is the value itself.
using OutputPath = std::vector<std::variant<std::int64_t, std::string>>;

}  // namespace it3
