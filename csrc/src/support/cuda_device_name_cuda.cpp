#include <ATen/cuda/CUDAContext.h>
#include <c10/util/StringUtil.h>

#include "support/cuda_device_name.h"

namespace it3::detail {

std::vector<std::string> cuda_device_name(c10::DeviceIndex device) {
  const cudaDeviceProp* const properties = at::cuda::getDeviceProperties(device);
  return {properties->name, c10::str("compute capability ", properties->major, ".", properties->minor)};
}

}  // namespace it3::detail
