#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace it3::test {

/// What came of failures at every point of a call.
struct Tally {
  std::int64_t points = 0;
  std::int64_t raised = 0;
  std::int64_t completed = 0;  // of those that raised, where all of the call had been done
  std::int64_t hidden = 0;     // where the call went another way, and nothing raised
  std::int64_t crashes = 0;    // where the process ended
  std::vector<std::string> faults;

  Tally& operator+=(const Tally& other);
};

/// Fails the test for each fault, and where there were fewer points than expected.
void expect_sound(const Tally& tally, std::int64_t least_points);

/// The same, but for points at which torch calls std::terminate().
void expect_sound_but_for_terminate(Tally tally, std::int64_t least_points);

/// What a child process is doing, in memory that it shares with its parent, which learns by it where a child ended.
struct Progress {
  std::int64_t point, points, raised, completed, hidden;
  std::int64_t faults_size;
  char faults[1 << 16];  // each ends with a zero

  /// Ends the process if that point takes much longer than any should.
  void begin(std::int64_t next_point);
  void add_fault(const std::string& text);
};

/// Runs `work` in a child process, from a first point on. Where the child crashes, that is a fault, with the calls that
/// led there, and another child goes on behind that point.
Tally in_children(const std::function<void(std::int64_t first, Progress& progress)>& work);

}  // namespace it3::test
