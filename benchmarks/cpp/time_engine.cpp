// Times a saved engine where there is no Python: time_engine ENGINE INPUTS STEPS CALLS THREADS
// For every line that it reads, it makes so many calls and writes the seconds of one.
#include <malloc.h>

#include <chrono>
#include <fstream>
#include <iostream>
#include <iterator>
#include <string>

#include <ATen/Parallel.h>
#include <torch/serialize.h>

#include <it3/it3.h>

int main(int argc, char** argv) {
  if (argc != 6) return 2;
  // Keeps memory that a call has freed for the next one; glibc would give it back and fault it in anew.
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
  it3::Engine engine = it3::Engine::load(argv[1]);
  std::ifstream file(argv[2], std::ios::binary);
  const std::vector<char> bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  const at::Tensor inputs = torch::pickle_load(bytes).toTensor();
  engine.options.num_steps = std::stoll(argv[3]);
  const int calls = std::stoi(argv[4]);
  at::set_num_threads(std::stoi(argv[5]));

  for (std::string line; std::getline(std::cin, line);) {
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < calls; ++i) engine.adapt(inputs);
    const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
    std::cout << time.count() / calls << std::endl;
  }
}
