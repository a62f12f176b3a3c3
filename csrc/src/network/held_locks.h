#pragma once

#include <it3/backend/export.h>

namespace it3::detail {

/// Whether this thread has any UpgradeMutex: only then can it be inside of a call.
IT3_API bool holds_any_lock();

}  // namespace it3::detail
