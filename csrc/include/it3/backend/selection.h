#pragma once

#include <string>
#include <vector>

#include <it3/backend/export.h>
#include <it3/network.h>

namespace it3 {

/// Those of `parameters` that Options::parameters asks for, in their order.
/// Raises c10::ValueError if there is none, or if a pattern matches none.
IT3_API std::vector<NamedParameter> select_parameters(
    const std::vector<NamedParameter>& parameters, const std::vector<std::string>& patterns);

}  // namespace it3
