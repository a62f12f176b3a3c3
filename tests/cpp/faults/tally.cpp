#include "faults/tally.h"

#include <execinfo.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <exception>
#include <iostream>
#include <stdexcept>

#include <ATen/Parallel.h>
#include <c10/util/Backtrace.h>
#include <gtest/gtest.h>

namespace it3::test {
namespace {

constexpr std::int64_t most_crashes = 60;
constexpr const char* terminated = " ends in std::terminate():\n";

int calls_descriptor = -1;

[[noreturn]] void end_with_calls() {
  void* frames[32];
  backtrace_symbols_fd(frames, backtrace(frames, 32), calls_descriptor);  // which needs no memory
  _exit(134);
}

std::string read_from_start(int descriptor) {
  std::string text(1 << 14, '\0');
  const auto size = ::pread(descriptor, text.data(), text.size(), 0);
  text.resize(size > 0 ? static_cast<std::size_t>(size) : 0);
  return text;
}

}  // namespace

Tally& Tally::operator+=(const Tally& other) {
  points += other.points;
  raised += other.raised;
  completed += other.completed;
  hidden += other.hidden;
  crashes += other.crashes;
  faults.insert(faults.end(), other.faults.begin(), other.faults.end());
  return *this;
}

void expect_sound(const Tally& tally, std::int64_t least_points) {
  std::cout << tally.points << " points, " << tally.raised << " errors, " << tally.completed << " of them late, "
            << tally.hidden << " hidden, " << tally.crashes << " crashes\n";
  EXPECT_GE(tally.points + tally.crashes, least_points);
  EXPECT_EQ(tally.points, tally.raised + tally.hidden);
  constexpr std::size_t most_told = 5;
  for (std::size_t i = 0; i < std::min(tally.faults.size(), most_told); ++i) ADD_FAILURE() << tally.faults[i];
  EXPECT_LE(tally.faults.size(), most_told);
}

void expect_sound_but_for_terminate(Tally tally, std::int64_t least_points) {
  EXPECT_LT(tally.crashes, most_crashes);
  std::erase_if(tally.faults, [](const std::string& fault) { return fault.find(terminated) != fault.npos; });
  expect_sound(tally, least_points);
}

void Progress::begin(std::int64_t next_point) {
  point = next_point;
  ::alarm(20);
}

void Progress::add_fault(const std::string& text) {
  const auto size = static_cast<std::int64_t>(std::min<std::size_t>(text.size(), 600));
  if (faults_size + size + 1 > static_cast<std::int64_t>(sizeof(faults))) return;
  std::memcpy(faults + faults_size, text.data(), static_cast<std::size_t>(size));
  faults_size += size + 1;
}

Tally in_children(const std::function<void(std::int64_t first, Progress& progress)>& work) {
  at::set_num_threads(1);                                            // a child has no others
  c10::SetStackTraceFetcher([] { return std::string("(calls)"); });  // which take longer than all the rest
  void* const shared = ::mmap(nullptr, sizeof(Progress), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  std::FILE* const calls = std::tmpfile();
  if (shared == MAP_FAILED || calls == nullptr) throw std::runtime_error("no memory to share with a child");
  auto& progress = *static_cast<Progress*>(shared);
  Tally tally;
  void* frames[1];
  backtrace(frames, 1);  // loads what it needs
  for (std::int64_t first = 1;;) {
    progress.point = first;
    const pid_t child = ::fork();
    if (child == 0) {
      calls_descriptor = ::fileno(calls);
      std::set_terminate(end_with_calls);
      try {
        work(first, progress);
      } catch (const std::exception& error) {
        progress.add_fault(std::string("no test: ") + error.what());
      }
      _exit(0);
    }
    int status = 0;
    if (child < 0 || ::waitpid(child, &status, 0) != child) throw std::runtime_error("no child process");
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) break;
    ++tally.crashes;
    const std::string how = WIFSIGNALED(status) ? " kills the process by signal " + std::to_string(WTERMSIG(status))
                                                : std::string(terminated) + read_from_start(::fileno(calls));
    tally.faults.push_back("point " + std::to_string(progress.point) + how);
    if (::ftruncate(::fileno(calls), 0) != 0 || ::lseek(::fileno(calls), 0, SEEK_SET) != 0) break;
    first = progress.point + 1;
    if (tally.crashes == most_crashes) break;
  }
  tally.points = progress.points;
  tally.raised = progress.raised;
  tally.completed = progress.completed;
  tally.hidden = progress.hidden;
  for (const char* fault = progress.faults; fault < progress.faults + progress.faults_size;
       fault += std::strlen(fault) + 1) {
    tally.faults.emplace_back(fault);
  }
  std::fclose(calls);
  ::munmap(shared, sizeof(Progress));
  return tally;
}

}  // namespace it3::test
