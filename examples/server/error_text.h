#pragma once

#include <exception>
#include <string>

namespace serving {

/// What an error says, in one line: torch's go on with stacks, and TorchScript's begin with the calls that led to it.
std::string error_text(const std::exception& error);

}  // namespace serving
