#pragma once

#include <string>
#include <vector>

#include <c10/core/Device.h>

namespace it3::detail {

/// A CUDA device's name and compute capability: {"NVIDIA H100 80GB HBM3", "compute capability 9.0"}.
std::vector<std::string> cuda_device_name(c10::DeviceIndex device);

}  // namespace it3::detail
