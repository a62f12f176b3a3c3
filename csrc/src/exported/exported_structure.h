#pragma once

#include <string>
#include <vector>

#include <it3/backend/output_path.h>

namespace it3::detail {

/// The value at a place in what a module of an exported program returns.
///
/// @param structure  as torch.utils._pytree.treespec_dumps() writes it
/// @param values  the names of its leaves, empty for what is no tensor
/// @param of  what returns it, for errors
///
/// Raises c10::ValueError if there is no tensor.
std::string value_at(
    const std::string& structure,
    const std::vector<std::string>& values,
    const OutputPath& path,
    const std::string& of);

}  // namespace it3::detail
