#pragma once

#include <string>

namespace it3::apps {

/// From now on SIGINT, as of Ctrl-C, and SIGTERM ask for an end; a second one ends at once.
void listen_for_end_requests();

/// Whether an end was asked for.
bool is_asked_to_end();

/// Raises c10::Error if an end was asked for: files that are not complete go then.
/// @param consequence  said behind the signal's number
void check_not_asked_to_end(const std::string& consequence);

}  // namespace it3::apps
