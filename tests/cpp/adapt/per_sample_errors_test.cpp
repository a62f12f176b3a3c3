#include <limits>

#include "error_of.h"
#include "per_sample_problem.h"

namespace it3::test {
namespace {

TEST(AdaptPerSample, CannotKeepTheWeightsOfManySamples) {
  PerSampleProblem problem;
  ScriptNetwork network(problem.module, "layer");
  Options options{.per_sample = true};
  options.copy_model = false;
  const std::string expected = "per_sample is for copy_model=True, but copy_model is False; ";
  EXPECT_EQ(error_of([&] { adapt(network, problem.method(), options, problem.x); }).find(expected), 0);
  Engine engine(std::make_shared<ScriptNetwork>(problem.module, "layer"), options);
  engine.set_trained(true);
  EXPECT_EQ(error_of([&] { engine.adapt(problem.x); }).find(expected), 0);
}

TEST(AdaptPerSample, RefusesModelsThatPredictSeveralRowsForOneSample) {
  PerSampleProblem problem;
  problem.module = two_layers(R"(
def forward(self, x):
  h = torch.tanh(torch.linear(torch.cat([x, 2 * x]), self.w0, self.b0))
  return torch.linear(torch.tanh(self.layer.forward(h) + h), self.w1, self.b1)
)");
  ScriptNetwork network(problem.module, "layer");
  const std::string why = error_of([&] { adapt(network, problem.method(), {.per_sample = true}, problem.x); });
  EXPECT_EQ(
      why.find(
          "per_sample calls the model with one sample at a time, but for one sample it returned a prediction with 2 "
          "samples"),
      0)
      << why;
}

TEST(AdaptPerSample, NamesTheSampleWhoseLossIsNotFinite) {
  PerSampleProblem problem;
  problem.x[2][1] = std::numeric_limits<double>::quiet_NaN();
  ScriptNetwork network(problem.module, "layer");
  for (const std::int64_t chunk_size : {7, 2, 1}) {
    const Options options{.per_sample = true, .chunk_size = chunk_size};
    const std::string why = error_of([&] { adapt(network, problem.method(), options, problem.x); });
    EXPECT_EQ(why.find("the loss of sample 2 at step 1 of 3 is nan"), 0) << why;
  }
}

TEST(AdaptPerSample, NamesTheSampleOfAModuleTooWhoseLossIsNotFinite) {
  Problem problem;
  problem.x[3][1] = std::numeric_limits<double>::quiet_NaN();
  const std::string why = error_of([&] { adapt(*problem.network, problem.method(), {.per_sample = true}, problem.x); });
  EXPECT_NE(why.find("the predictions for sample 3 are not finite"), std::string::npos) << why;
}

}  // namespace
}  // namespace it3::test
