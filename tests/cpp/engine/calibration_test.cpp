#include <gtest/gtest.h>
#include <torch/torch.h>

#include <it3/it3.h>

#include "error_of.h"
#include "warnings.h"

namespace it3 {
namespace {

/// An engine whose predictions are logits of 3 classes.
Engine make_engine() {
  torch::manual_seed(0);
  torch::nn::Sequential model({{"layer", torch::nn::Linear(5, 8)}, {"head", torch::nn::Linear(8, 3)}});
  Engine engine(std::make_shared<ModuleNetwork>(model, "layer"), {}, Embedder(), nullptr, distance_by_name("js"));
  engine.set_trained(true);
  return engine;
}

TEST(Calibration, BatchesThatComeOneByOneGiveTheSame) {
  Engine at_once = make_engine(), one_by_one = make_engine();
  const std::vector<Inputs> batches = {torch::randn({6, 5}), torch::randn({4, 5})};
  Calibration calibration;
  for (const Inputs& batch : batches) one_by_one.add_to(calibration, batch);
  EXPECT_FALSE(one_by_one.calibrated_range());
  EXPECT_EQ(one_by_one.calibrate_by(calibration, 0.9), at_once.calibrate(batches, 0.9));
  EXPECT_EQ(one_by_one.options.threshold, at_once.options.threshold);
  ASSERT_TRUE(one_by_one.calibrated_range());
  EXPECT_EQ(*one_by_one.calibrated_range(), *at_once.calibrated_range());
  EXPECT_EQ(one_by_one.calibrated_range()->samples, 4);
}

TEST(Calibration, WarnsOnceOfACollapse) {
  Engine engine = make_engine();
  const at::Tensor x = torch::randn({32, 5});
  engine.calibrate({x});
  engine.options.threshold.reset();
  const test::Warnings warnings;
  engine.adapt(x);
  EXPECT_TRUE(warnings.texts().empty());
  engine.options.num_steps = 20;
  engine.options.lr = 0.5;
  engine.adapt(x);
  engine.adapt(x);
  ASSERT_EQ(warnings.texts().size(), 1);
  EXPECT_NE(warnings.texts()[0].find("far more extreme"), std::string::npos) << warnings.texts()[0];
  EXPECT_NE(warnings.texts()[0].find("mean entropy is"), std::string::npos) << warnings.texts()[0];
}

TEST(Calibration, RangesSurviveTheirFormInFiles) {
  const PredictionRange range{PredictionRange::Kind::probabilities, 0.25, 7};
  EXPECT_EQ(prediction_range_from(to_ivalue(range)), range);
  EXPECT_EQ(prediction_range_from(to_ivalue(std::nullopt)), std::nullopt);
  EXPECT_THROW(prediction_range_from(c10::ivalue::Tuple::create("colors", 0.25, 7)), c10::Error);
  EXPECT_THROW(prediction_range_from(3), c10::Error);
}

}  // namespace
}  // namespace it3
