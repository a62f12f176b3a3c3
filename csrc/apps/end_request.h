#pragma once

#include <stdexcept>

namespace it3::apps {

/// Ends a run as it was asked to: files that are not complete go then.
struct EndRequested : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// From now on SIGINT, as of Ctrl-C, and SIGTERM ask for an end; a second one ends at once.
void listen_for_end_requests();

/// Whether an end was asked for.
bool is_asked_to_end();

/// What an end comes to where files appear when all is done, and where a checkpoint was written.
inline constexpr const char* nothing_was_written = "nothing was written";
inline constexpr const char* goes_on = "given once more, the command goes on";

/// Raises EndRequested if an end was asked for.
/// @param consequence  said behind the signal's number
void check_not_asked_to_end(const char* consequence = nothing_was_written);

}  // namespace it3::apps
