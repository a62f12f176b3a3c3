// Threads push, pop, choose, remove and close a BoundedQueue at once: each item that was taken in comes out once. Built
// with ThreadSanitizer.
#include <atomic>
#include <chrono>
#include <iostream>
#include <memory>
#include <thread>
#include <vector>

#include "bounded_queue.h"

namespace {

using namespace std::chrono_literals;

struct Item {
  int number;
  std::atomic<int> times_out = 0;
};
using Queue = serving::BoundedQueue<std::shared_ptr<Item>>;

constexpr int pushers = 4, poppers = 3, items_each = 5000;
constexpr std::size_t capacity = 8;

int failures = 0;

void check(bool is_right, const char* what) {
  if (is_right) return;
  std::cout << "wrong: " << what << '\n';
  ++failures;
}

void run_threads() {
  Queue queue(capacity);
  std::atomic<int> taken_in = 0, refused = 0, popped = 0, removed = 0;
  std::atomic<bool> was_too_long = false;
  std::vector<std::vector<std::shared_ptr<Item>>> kept(pushers);
  std::vector<std::thread> pushing, popping;
  for (int i = 0; i < pushers; ++i) {
    pushing.emplace_back([&, i] {
      for (int n = 0; n < items_each; ++n) {
        auto item = std::make_shared<Item>(n);
        if (!queue.push(item)) {
          ++refused;
          std::this_thread::yield();
          continue;
        }
        ++taken_in;
        kept[i].push_back(item);
        if (queue.size() > capacity) was_too_long = true;
        if (n % 7 == 0 && queue.remove(item)) {  // as after a deadline
          ++item->times_out;
          ++removed;
        }
      }
    });
  }
  for (int i = 0; i < poppers; ++i) {
    popping.emplace_back([&] {
      while (auto item = queue.pop()) {
        ++(*item)->times_out;
        ++popped;
        const int parity = (*item)->number % 2;
        const auto is_alike = [parity](const auto& other) { return other->number % 2 == parity; };
        if (auto more = queue.pop_if(is_alike, Queue::Clock::now() + 100us)) {
          ++(*more)->times_out;
          ++popped;
        }
      }
    });
  }
  for (auto& thread : pushing) thread.join();
  queue.close();
  for (auto& thread : popping) thread.join();

  check(taken_in + refused == pushers * items_each, "pushes are taken in or refused");
  check(popped + removed == taken_in, "what was taken in comes out");
  check(!was_too_long, "the queue keeps to its capacity");
  for (const auto& items : kept) {
    for (const auto& item : items) check(item->times_out == 1, "each comes out once");
  }
  check(refused > 0, "some were refused, or this tests too little");
  check(queue.size() == 0, "the queue is empty in the end");
}

void run_alone() {
  serving::BoundedQueue<int> queue(2);
  check(queue.push(1) && queue.push(2) && !queue.push(3), "the third does not fit");
  check(queue.is_full() && queue.size() == 2, "two are in it");
  const auto soon = [] { return Queue::Clock::now() + 20ms; };
  check(queue.pop_if([](int item) { return item == 2; }, soon()) == 2, "the wanted one comes first");
  const auto begin = Queue::Clock::now();
  check(!queue.pop_if([](int item) { return item == 2; }, soon()), "none is wanted");
  check(Queue::Clock::now() - begin >= 20ms, "it waited for one");
  check(!queue.remove(2) && queue.remove(1), "what is in it is removed");
  std::thread late([&] {
    std::this_thread::sleep_for(20ms);
    queue.push(4);
  });
  check(queue.pop_if([](int item) { return item == 4; }, Queue::Clock::now() + 10s) == 4, "one that comes is found");
  late.join();
  queue.push(5);
  queue.close();
  check(!queue.push(6), "a closed queue takes none");
  check(queue.pop() == 5 && !queue.pop(), "what is in it still comes out");
}

}  // namespace

int main() {
  run_alone();
  run_threads();
  std::cout << (failures == 0 ? "all right\n" : "failed\n");
  return failures == 0 ? 0 : 1;
}
