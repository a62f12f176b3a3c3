#include "network_fixture.h"

namespace it3::test {
namespace {

using namespace std::string_literals;

TEST(Options, AreSetByName) {
  Options options;
  options.set("optimizer_name", "sgd"s);
  options.set("num_steps", std::int64_t{7});
  options.set("lr", std::int64_t{1});
  options.set("momentum", 0.5);
  options.set("copy_model", false);
  options.set("max_grad_norm", 2.0);
  options.set("parameters", std::vector<std::string>{"a", "b"});
  EXPECT_EQ(options.optimizer_name, OptimizerName::sgd);
  EXPECT_EQ(options.num_steps, 7);
  EXPECT_EQ(options.lr, 1.0);
  EXPECT_EQ(options.momentum, 0.5);
  EXPECT_FALSE(options.copy_model);
  EXPECT_EQ(options.max_grad_norm, 2.0);
  EXPECT_EQ(options.parameters, (std::vector<std::string>{"a", "b"}));
  options.validate();
  options.set("max_grad_norm", std::monostate{});
  EXPECT_EQ(options.max_grad_norm, std::nullopt);
}

TEST(Options, ErrorsAreOfTheRightKindAndLeaveOptionsAlone) {
  Options options;
  EXPECT_THROW(options.set("steps", std::int64_t{7}), c10::ValueError);
  EXPECT_THROW(options.set("num_steps", std::int64_t{-1}), c10::ValueError);
  EXPECT_THROW(options.set("num_steps", 1.0), c10::TypeError);
  EXPECT_THROW(options.set("lr", "fast"s), c10::TypeError);
  EXPECT_THROW(options.set("betas", (std::vector<double>{0.9, 1.0})), c10::ValueError);
  EXPECT_THROW(options.set("optimizer_name", "lion"s), c10::ValueError);
  EXPECT_EQ(options.num_steps, 3);
  options.momentum = 0.9;
  EXPECT_THROW(options.validate(), c10::ValueError);
}

TEST(Options, OptimizerNamesGoThereAndBack) {
  for (const auto* const name : {"adam", "adamw", "sgd", "rmsprop", "adagrad"}) {
    Options options;
    options.set("optimizer_name", std::string(name));
    EXPECT_EQ(to_string(options.optimizer_name), name);
  }
}

}  // namespace
}  // namespace it3::test
