// Loads a saved engine in several threads at once, again and again: threads ENGINE.
#include <iostream>
#include <thread>
#include <vector>

#include <it3/it3.h>

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&] {
      for (int times = 0; times < 8; ++times) it3::Engine::load(argv[1]);
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::cout << "all loaded\n";
}
