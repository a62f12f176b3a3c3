#include <it3/backend/upgrade_mutex.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include <c10/util/Exception.h>
#include <gtest/gtest.h>

namespace it3::test {
namespace {

using Use = UpgradeMutex::Use;

TEST(UpgradeMutex, RefusesToWaitForWhoMayWaitForIt) {
  UpgradeMutex mutex;
  mutex.lock(Use::reading);
  std::thread other([&] {
    mutex.lock(Use::updating);
    mutex.lock(Use::alone);  // waits for this thread
    mutex.unlock(Use::alone);
    mutex.unlock(Use::updating);
  });
  // Whoever comes last is refused, so that the other thread has to wait first: then new readers let it pass.
  std::thread([&] {
    while (mutex.try_lock(Use::reading)) {
      mutex.unlock(Use::reading);
      std::this_thread::yield();
    }
  }).join();
  EXPECT_THROW(mutex.lock(Use::updating), c10::Error);
  EXPECT_THROW(mutex.lock(Use::alone), c10::Error);
  mutex.lock(Use::reading);
  mutex.unlock(Use::reading);
  mutex.unlock(Use::reading);
  other.join();
}

TEST(UpgradeMutex, RefusesACircleOfWaitsThroughSeveralMutexes) {
  // Three threads, each with the mutex that the one before it wants: the last one to wait would wait for ever.
  constexpr int count = 3;
  std::vector<UpgradeMutex> mutexes(count);
  std::atomic<int> have_own = 0, refused = 0, ended = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < count; ++i) {
    threads.emplace_back([&, i] {
      UpgradeMutex &own = mutexes[i], &next = mutexes[(i + 1) % count];
      own.lock(i == 0 ? Use::reading : i == 1 ? Use::updating : Use::alone);
      ++have_own;
      while (have_own < count) std::this_thread::yield();
      try {
        next.lock(Use::alone);
        next.unlock(Use::alone);
      } catch (const c10::Error&) {
        ++refused;
      }
      own.unlock(i == 0 ? Use::reading : i == 1 ? Use::updating : Use::alone);
      ++ended;
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(ended, count);
  EXPECT_EQ(refused, 1);
  for (auto& mutex : mutexes) EXPECT_TRUE(mutex.try_lock(Use::alone));
  for (auto& mutex : mutexes) mutex.unlock(Use::alone);
}

TEST(UpgradeMutex, LetsWhoWaitsForTwoReadersComeToItsEnd) {
  // No circle: a thread that has one mutex waits for another one, whose reader waits for nobody.
  UpgradeMutex first, second;
  std::atomic<bool> reads = false, has_waited = false;
  std::thread reader([&] {
    second.lock(Use::reading);
    reads = true;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    EXPECT_FALSE(has_waited);
    second.unlock(Use::reading);
  });
  while (!reads) std::this_thread::yield();
  first.lock(Use::reading);
  second.lock(Use::alone);
  has_waited = true;
  second.unlock(Use::alone);
  first.unlock(Use::reading);
  reader.join();
}

TEST(UpgradeMutex, IsTakenBesideOthersAsItsUseAllows) {
  const std::vector<Use> uses = {Use::reading, Use::updating, Use::alone};
  // What another thread may have while this one has: reading, updating, alone.
  const std::vector<std::vector<bool>> allowed = {{true, true, false}, {true, false, false}, {false, false, false}};
  for (std::size_t mine = 0; mine < uses.size(); ++mine) {
    for (std::size_t its = 0; its < uses.size(); ++its) {
      UpgradeMutex mutex;
      mutex.lock(uses[mine]);
      bool is_free = false;
      std::thread([&] {
        is_free = mutex.try_lock(uses[its]);
        if (is_free) mutex.unlock(uses[its]);
      }).join();
      EXPECT_EQ(is_free, allowed[mine][its]) << mine << ' ' << its;
      EXPECT_TRUE(mutex.try_lock(uses[its]));  // by the thread that has it
      mutex.unlock(uses[its]);
      mutex.unlock(uses[mine]);
      EXPECT_TRUE(mutex.try_lock(Use::alone));
      mutex.unlock(Use::alone);
    }
  }
}

}  // namespace
}  // namespace it3::test
