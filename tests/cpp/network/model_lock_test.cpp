#include <it3/backend/model_lock.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <thread>

#include <gtest/gtest.h>
#include <torch/torch.h>

namespace it3::test {
namespace {

using Use = UpgradeMutex::Use;

TEST(ModelLock, IsSharedByWhoeverNamesAPart) {
  const auto t = torch::randn({2});
  const ModelLock first({t}), second({t, torch::randn({2})});
  auto turn = std::make_unique<ModelLock::Turn>(first.wait(Use::alone));
  {
    const auto again = second.wait(Use::alone);
    const auto nothing = ModelLock().wait(Use::alone);
  }
  std::atomic<bool> has_come = false;
  std::thread other([&] {
    const auto its_turn = ModelLock({t}).wait(Use::alone);
    has_come = true;
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_FALSE(has_come);
  turn.reset();
  other.join();
  EXPECT_TRUE(has_come);
}

TEST(ModelLock, LetsWhoUpdatesComeToItsEnd) {
  // One of two models with a part in common updates, another thread wants the part alone, and a third one reads all.
  const auto own = torch::randn({2}), shared = torch::randn({2});
  const ModelLock part({shared}), whole({own, shared});
  std::atomic<int> ended = 0;
  std::atomic<bool> waits = false;
  std::thread alone, reads;
  {
    const auto updating = whole.wait(Use::updating);
    alone = std::thread([&] {
      waits = true;
      const auto turn = part.wait(Use::alone);
      ++ended;
    });
    while (!waits) std::this_thread::yield();
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    reads = std::thread([&] {
      const auto turn = whole.wait(Use::reading);
      ++ended;
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    const auto turn = whole.wait(Use::alone);
  }
  alone.join();
  reads.join();
  EXPECT_EQ(ended, 2);
}

}  // namespace
}  // namespace it3::test
