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
  EXPECT_EQ(options.optimizer_name, OptimizerKind::sgd);
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

TEST(Options, AreValidatedHoweverTheyAreSet) {
  const double nan = std::nan("");
  const auto message = [](const Options& options) -> std::string {
    try {
      options.validate();
      return "valid";
    } catch (const c10::ValueError& error) {
      return error.what_without_backtrace();
    } catch (const c10::TypeError& error) {
      return error.what_without_backtrace();
    }
  };
  const auto says = [&](const Options& options, const std::string& text) {
    EXPECT_NE(message(options).find(text), std::string::npos) << message(options);
  };
  EXPECT_EQ(message({}), "valid");
  says({.num_steps = -1}, "num_steps must be a whole number, 0 or more, not -1");
  says({.lr = -1}, "lr must be a number, 0 or more, not -1.0");
  says({.lr = nan}, "lr must be a number, 0 or more, not nan");
  says({.betas = {{0.9, nan}}}, "betas must be two numbers from 0 to below 1");
  says({.eps = -1}, "eps must be a number, 0 or more");
  says({.weight_decay = nan}, "weight_decay must be a number, 0 or more");
  says({.optimizer_name = OptimizerKind::sgd, .momentum = -1}, "momentum must be a number, 0 or more");
  says({.anchor = AnchorKind::ema, .ema_decay = 2}, "ema_decay must be a number from 0 to 1, or None, not 2.0");
  says({.norm_statistics = NormStatistics::blend, .norm_prior = -1}, "norm_prior must be a number, 0 or more");
  says({.tolerance = nan}, "tolerance must be a number, 0 or more");
  says({.tolerance = 0.1, .patience = 0}, "patience must be a whole number, 1 or more, or None, not 0");
  says({.threshold = nan}, "threshold must be a number, 0 or more, or None, not nan");
  says({.restore_probability = 1.5}, "restore_probability must be a number from 0 to 1");
  says({.recovery_factor = nan}, "recovery_factor must be a number above 1, or None, not nan");
  says({.per_sample = true, .chunk_size = 0}, "chunk_size must be a whole number, 1 or more, or None, not 0");
  says({.amp = at::kDouble}, "amp must be one of bf16, fp16, or None, not 'Double'");
  says({.max_grad_norm = nan}, "max_grad_norm must be a number above 0, or None, not nan");
  says({.parameters = {}}, "parameters must be 'all', 'norm', or one or more patterns");
  says({.optimizer_name = static_cast<OptimizerKind>(9)}, "optimizer_name must be one of adam, adamw, sgd, rmsprop");
  says({.anchor = static_cast<AnchorKind>(-1)}, "anchor must be one of self, frozen, frozen_tail, ema, not -1");
  says({.prediction = static_cast<PredictionKind>(3)}, "prediction must be one of first, second, mean, not 3");
  says({.norm_statistics = static_cast<NormStatistics>(7)}, "norm_statistics must be one of running, batch, blend");
  says({.momentum = 0.9}, "momentum is for sgd and rmsprop");
}

TEST(Options, WhatRefinesAChoiceGoesWithIt) {
  it3::Options options;
  options.override_with(
      {{"optimizer_name", std::string("sgd")}, {"momentum", 0.9}, {"anchor", std::string("ema")}, {"ema_decay", 0.5}});
  const it3::Options before = options;
  EXPECT_THROW(
      options.override_with({{"anchor", std::string("frozen")}, {"ema_decay", 0.9}}), c10::ValueError);  // both given
  EXPECT_EQ(options, before);
  options.override_with({{"anchor", std::string("frozen")}, {"lr", 0.1}});
  EXPECT_EQ(options.anchor, it3::AnchorKind::frozen);
  EXPECT_FALSE(options.ema_decay);
  EXPECT_EQ(options.momentum, 0.9);  // is about the optimizer
  options.override_with({{"optimizer_name", std::string("adam")}});
  EXPECT_FALSE(options.momentum);
  options.override_with({{"anchor", std::string("ema")}, {"ema_decay", 0.9}});
  EXPECT_EQ(options.ema_decay, 0.9);
  EXPECT_THROW(options.override_with({{"copy_model", false}, {"per_sample", true}}), c10::ValueError);
}

TEST(Options, AreValidatedByEveryCallOfAnEngine) {
  Problem problem;
  Engine engine(problem.network);
  engine.adapt(problem.x);
  const auto before = problem.snapshot();
  engine.options.num_steps = -1;
  EXPECT_THROW(engine.adapt(problem.x), c10::ValueError);
  EXPECT_THROW(engine.uncertainty(problem.x), c10::ValueError);
  EXPECT_THROW(engine.calibrate({problem.x}), c10::ValueError);
  engine.options = {.per_sample = true, .chunk_size = 0};
  EXPECT_THROW(engine.adapt(problem.x), c10::ValueError);
  EXPECT_THROW(engine.set_neutral(torch::tensor(std::nan(""))), c10::ValueError);
  EXPECT_THROW(engine.set_neutral(torch::tensor(c10::complex<float>(0, 1))), c10::ValueError);
  EXPECT_TRUE(equal(problem.snapshot(), before));
}

TEST(Options, TakeEarlierSpellings) {
  for (const OptionValue& spelling : {OptionValue("none"s), OptionValue()}) {
    Options options{.anchor = AnchorKind::ema};
    options.set("anchor", spelling);
    EXPECT_EQ(options.anchor, AnchorKind::self);
  }
}

TEST(Options, AreDescribedByOneTable) {
  const Options defaults;
  std::vector<std::string> names;
  for (const OptionInfo& info : option_infos()) {
    names.push_back(info.name);
    EXPECT_FALSE(info.type.empty() || info.accepted.empty() || info.default_text.empty()) << info.name;
    EXPECT_EQ(info.documentation.back(), '.') << info.name;
  }
  for (const auto& [name, value] : defaults.values()) {
    EXPECT_EQ(std::count(names.begin(), names.end(), name), 1) << name;
  }
  const auto info_of = [&](const std::string& name) {
    return option_infos()[static_cast<std::size_t>(std::find(names.begin(), names.end(), name) - names.begin())];
  };
  EXPECT_EQ(info_of("lr").default_text, "1e-05");
  EXPECT_EQ(info_of("num_steps").default_text, "3");
  EXPECT_EQ(info_of("momentum").default_text, "None");
  EXPECT_EQ(info_of("momentum").type, "float | None");
  EXPECT_EQ(info_of("copy_model").default_text, "True");
  EXPECT_EQ(info_of("anchor").default_text, "'self'");
  EXPECT_EQ(info_of("anchor").type, R"(Literal["self", "frozen", "frozen_tail", "ema"])");
  EXPECT_EQ(info_of("recovery_factor").accepted, "a number above 1, or None");
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
