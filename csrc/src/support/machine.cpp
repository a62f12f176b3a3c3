#include <it3/backend/machine.h>

#include <sys/utsname.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <sstream>
#include <string_view>

#include "support/cuda_device_name.h"

namespace it3 {
namespace {

/// How x86's names begin of what compilers make use of.
constexpr std::array<std::string_view, 20> instructions = {
    "3dnow", "abm",    "adx",    "aes",    "amx",   "avx",    "bmi", "f16c", "fma",  "gfni",
    "movbe", "movdir", "pclmul", "popcnt", "rdpid", "rdrand", "sha", "sse",  "ssse", "va"};

bool is_instruction(std::string_view flag) {
  return std::any_of(instructions.begin(), instructions.end(), [&](auto begin) { return flag.starts_with(begin); });
}

std::vector<std::string> cpu() {
  utsname system = {};
  std::vector<std::string> words = {uname(&system) == 0 ? system.machine : "an unknown processor"};
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const bool is_x86 = line.starts_with("flags"), is_arm = line.starts_with("Features");
    if (!is_x86 && !is_arm) continue;
    std::istringstream flags(line.substr(std::min(line.find(':') + 1, line.size())));
    for (std::string flag; flags >> flag;) {
      if (is_arm || is_instruction(flag)) words.push_back(flag);
    }
    break;  // all processors of a machine have the same
  }
  return words;
}

}  // namespace

std::vector<std::string> machine_of(c10::Device device) {
  if (device.is_cuda()) return detail::cuda_device_name(device.index());
  return cpu();
}

}  // namespace it3
