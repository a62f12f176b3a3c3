#pragma once

#include <string>
#include <vector>

#include <c10/core/Device.h>

#include <it3/backend/export.h>

namespace it3 {

/// What compiled code for a device needs of the machine: of a CPU its architecture and the instructions that it has, of
/// a CUDA device its name and compute capability. Code runs wherever there is all that it was compiled for.
IT3_API std::vector<std::string> machine_of(c10::Device device);

}  // namespace it3
