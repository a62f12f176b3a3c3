#include "version.h"

namespace it3::apps {

const char* const version = IT3_VERSION;

}  // namespace it3::apps
