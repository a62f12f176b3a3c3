#pragma once

namespace it3::test {

/// What stands in for a CUDA device in this program, so that what is done with graphs is tested on any machine: graphs
/// that do their work again on the CPU, and a CPU that has events. Here is what they do, and what was done with them.
struct DeviceOnCpu {
  bool has_graphs = true;
  bool fails_to_record = false;
  int recordings = 0;
  int replays = 0;
  int recorded_events = 0;
  int waits_for_events = 0;
  int synchronized_events = 0;
};
inline DeviceOnCpu device;

}  // namespace it3::test
