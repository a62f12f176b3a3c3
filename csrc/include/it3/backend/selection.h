#pragma once

#include <string>
#include <vector>

#include <it3/backend/export.h>
#include <it3/network.h>

namespace it3 {

/// The parameters that Options::parameters selects, in their order.
///
/// @param parameters  all parameters of a network
/// @param patterns  Options::parameters
/// @throws c10::ValueError  if no parameter is selected, or a pattern selects none
///
/// @code{.cpp}
/// it3::ModuleNetwork network(model, "encoder");
/// std::vector<it3::NamedParameter> head = it3::select_parameters(network.parameters(), {"head"});
/// assert(head.size() == 2);  // its weight and bias
/// @endcode
IT3_API std::vector<NamedParameter> select_parameters(
    const std::vector<NamedParameter>& parameters, const std::vector<std::string>& patterns);

}  // namespace it3
