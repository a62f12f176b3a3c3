// Where torch is built without CUDA.
#include <c10/util/Exception.h>

#include "support/cuda_device_name.h"

namespace it3::detail {

std::vector<std::string> cuda_device_name(c10::DeviceIndex /*device*/) {
  TORCH_CHECK(false, "this it3 was built without CUDA");
}

}  // namespace it3::detail
