#pragma once

#include <malloc.h>

#include <chrono>
#include <fstream>
#include <iostream>
#include <iterator>
#include <string>
#include <vector>

#include <ATen/Parallel.h>
#include <torch/serialize.h>

/// The arguments of a timing program: ENGINE INPUTS STEPS CALLS THREADS.
struct Arguments {
  explicit Arguments(char** argv) : engine(argv[1]), steps(std::stoll(argv[3])), calls(std::stoi(argv[4])) {
    // Keeps memory that a call has freed for the next one; glibc would give it back and fault it in anew.
    mallopt(M_MMAP_THRESHOLD, 1 << 30);
    mallopt(M_TRIM_THRESHOLD, 1 << 30);
    std::ifstream file(argv[2], std::ios::binary);
    const std::vector<char> bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    inputs = torch::pickle_load(bytes).toTensor();
    at::set_num_threads(std::stoi(argv[5]));
  }

  std::string engine;
  std::int64_t steps;
  int calls;
  at::Tensor inputs;
};

/// For every line that it reads, makes so many calls and writes the seconds of one.
template <typename Call>
void time_blocks(int calls, const Call& call) {
  for (std::string line; std::getline(std::cin, line);) {
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < calls; ++i) call();
    const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
    std::cout << time.count() / calls << std::endl;
  }
}
