#pragma once

namespace it3::apps {

/// As in "0.1.0", or "0.1.0.post1.dev3" between releases. In a source file of its own, as it changes with each commit.
extern const char* const version;

}  // namespace it3::apps
