#include "connections.h"

#include <system_error>
#include <utility>

#include <c10/util/Exception.h>

namespace serving {
namespace {

constexpr int threads_above = 8;
thread_local bool is_thread_above = false;

}  // namespace

Connections::Connections(std::size_t limit) : limit_(limit) {
  try {
    for (std::size_t i = 0; i < limit; ++i) threads_.emplace_back([this] { serve(within_); });
    for (int i = 0; i < threads_above; ++i) threads_.emplace_back([this] { serve(above_); });
  } catch (const std::system_error& error) {
    shutdown();
    TORCH_CHECK(
        false, "cannot start a thread for each of ", limit, " connections: ", error.what(),
        "; give fewer --connections");
  }
}

void Connections::enqueue(std::function<void()> connection) {
  const std::lock_guard lock(mutex_);
  const bool is_above = open_ == limit_;
  if (!is_above) ++open_;
  Lane& lane = is_above ? above_ : within_;
  lane.waiting.push_back(std::move(connection));
  lane.arrived.notify_one();
}

void Connections::shutdown() {
  {
    const std::lock_guard lock(mutex_);
    is_shut_down_ = true;
  }
  within_.arrived.notify_all();
  above_.arrived.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

bool Connections::is_above_limit() { return is_thread_above; }

void Connections::serve(Lane& lane) {
  is_thread_above = &lane == &above_;
  std::unique_lock lock(mutex_);
  while (true) {
    lane.arrived.wait(lock, [&] { return is_shut_down_ || !lane.waiting.empty(); });
    if (lane.waiting.empty()) return;
    const std::function<void()> connection = std::move(lane.waiting.front());
    lane.waiting.pop_front();
    lock.unlock();
    connection();
    lock.lock();
    if (!is_thread_above) --open_;
  }
}

}  // namespace serving
