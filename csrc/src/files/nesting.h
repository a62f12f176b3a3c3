#pragma once

#include <string_view>

namespace it3::detail {

// torch reads archives by functions that call themselves for each level of what they read, and makes room for as many
// values as a pickle says: a few bytes could end the process. Honest files are far from these limits.

/// Raises c10::ValueError for a pickle that is damaged, nests values more than 1,000 deep, has a value within itself,
/// counts on values that are not there, or holds some so often that it stands for more than 10 million.
void check_pickle(std::string_view pickle);

/// Raises c10::ValueError for TorchScript code with an expression that more than 5,000 brackets and operators nest, or
/// blocks more than 200 deep. Long lists do not nest.
void check_code(std::string_view code);

}  // namespace it3::detail
