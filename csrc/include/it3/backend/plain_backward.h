#pragma once

#include <it3/backend/export.h>

namespace it3 {

/// Whether adaptation runs plain autograd graphs backwards by itself, which is faster for small networks, or leaves all
/// to torch's engine. The gradients are the same to the bit, so that this is for comparing and for finding faults. On
/// from the start; holds for all threads. Checked with torch 2.11 and 2.13.
IT3_API void use_plain_backward(bool on);
IT3_API bool uses_plain_backward();

}  // namespace it3
