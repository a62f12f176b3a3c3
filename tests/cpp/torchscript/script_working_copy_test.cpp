#include <thread>

#include <torch/script.h>

#include "files/new_file.h"
#include "files/saved_module.h"
#include "network_fixture.h"
#include "temporary_folder.h"

namespace it3::test {
namespace {

torch::jit::Module module_of(
    const std::string& forward, const std::vector<std::pair<std::string, at::Tensor>>& tensors) {
  torch::jit::Module module("Net");
  torch::jit::Module layer("Layer");
  layer.define("def forward(self, x):\n  return torch.tanh(x)\n");
  module.register_module("layer", layer);
  for (const auto& [name, tensor] : tensors) module.register_parameter(name, tensor, !tensor.requires_grad());
  module.define(forward);
  return module;
}

at::Tensor parameter(std::initializer_list<std::int64_t> sizes) {
  return (torch::randn(at::IntArrayRef(sizes), f64) / 2).requires_grad_();
}

Method method_by(const at::Tensor& embedding) {
  return {
      [embedding](const at::Tensor& prediction, const at::Tensor&) { return prediction.matmul(embedding); },
      [](const at::Tensor& features, const at::Tensor& embedded) { return features + embedded; },
      distance_by_name("mse")};
}

using Formula = std::function<at::Tensor(const std::optional<at::Tensor>& signal)>;

/// Steps on the tensors themselves; afterwards they are as before.
std::pair<at::Tensor, std::vector<double>> by_formula(
    const Formula& formula, const std::vector<at::Tensor>& parameters, const Options& options) {
  std::vector<at::Tensor> before;
  for (const auto& p : parameters) before.push_back(p.detach().clone());
  torch::optim::Adam optimizer(parameters, torch::optim::AdamOptions(options.lr));
  std::vector<double> losses;
  for (std::int64_t step = 0; step < options.num_steps; ++step) {
    optimizer.zero_grad();
    const at::Tensor y0 = formula({});
    const at::Tensor loss = (formula(y0) - y0).square().mean();
    losses.push_back(loss.item<double>());
    loss.backward();
    optimizer.step();
  }
  const torch::NoGradGuard no_grad;
  const at::Tensor prediction = formula({}).clone();
  for (std::size_t i = 0; i < parameters.size(); ++i) parameters[i].copy_(before[i]);
  return {prediction, losses};
}

void expect_same(const Adaptation& adaptation, const std::pair<at::Tensor, std::vector<double>>& expected) {
  EXPECT_TRUE(close(adaptation.prediction, expected.first));
  for (std::size_t i = 0; i < expected.second.size(); ++i) {
    EXPECT_NEAR(adaptation.losses[static_cast<std::int64_t>(i)].item<double>(), expected.second[i], 1e-12);
  }
}

const char* const with_view = R"(
def forward(self, x):
  h = self.layer.forward(x.matmul(self.w))
  return h.matmul(self.view)
)";

TEST(ScriptWorkingCopy, ViewsFollowTheParameterThatTheyLieOver) {
  torch::manual_seed(0);
  const at::Tensor big = parameter({4, 4}), x = torch::randn({3, 4}, f64), embedding = torch::randn({4, 4}, f64);
  const std::vector<at::Tensor> views = {
      big.detach(), big.detach().t(), big.detach().narrow(0, 1, 1).expand({4, 4}),
      big.detach().as_strided({4, 4}, {2, 1}, 2)};
  for (const at::Tensor& view : views) {
    ScriptNetwork network(module_of(with_view, {{"w", big}, {"view", view}}), "layer");
    const Formula formula = [&](const std::optional<at::Tensor>& signal) {
      const at::Tensor h = torch::tanh(x.matmul(big));
      return (signal ? h + signal->matmul(embedding) : h).matmul(view);
    };
    const Method method = method_by(embedding);
    for (const auto anchor : {AnchorKind::self, AnchorKind::frozen}) {
      Options options;
      options.anchor = anchor;
      const auto adapted = adapt(network, method, options, x);
      if (anchor == AnchorKind::self) expect_same(adapted, by_formula(formula, {big}, options));
    }
    Options each;
    each.per_sample = true;
    const auto together = adapt(network, method, each, x);
    for (std::int64_t i = 0; i < 3; ++i) {
      EXPECT_TRUE(close(together.prediction[i], adapt(network, method, {}, x.narrow(0, i, 1)).prediction[0]));
    }
  }
}

TEST(ScriptWorkingCopy, ComplexAndOtherDtypesFollowToo) {
  torch::manual_seed(0);
  const at::Tensor w = torch::randn({4, 4}, torch::kComplexDouble).requires_grad_();
  const at::Tensor x = torch::randn({3, 4}, torch::kComplexDouble),
                   embedding = torch::randn({4, 4}, torch::kComplexDouble);
  const auto module = module_of(
      "def forward(self, x):\n  return self.layer.forward(x.matmul(self.w)).matmul(self.other)\n",
      {{"w", w}, {"other", w.detach().conj()}});
  ScriptNetwork network(module, "layer");
  const auto copy = network.checkout(network.parameters());
  const torch::NoGradGuard no_grad;
  copy->values()[0].mul_(2);
  const at::Tensor expected = torch::tanh(x.matmul(2 * w)).matmul((2 * w).conj());
  EXPECT_TRUE(close(copy->predict(x).prediction, expected));
}

TEST(ScriptWorkingCopy, RefusesWhatCannotFollow) {
  const at::Tensor big = torch::randn({8, 4}, f64);
  const at::Tensor a = big.narrow(0, 0, 4).requires_grad_();
  const auto why_not = [](const torch::jit::Module& module) {
    ScriptNetwork network(module, "layer");
    try {
      network.checkout(network.parameters());
    } catch (const c10::ValueError& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  const std::string partly = why_not(module_of(with_view, {{"w", a}, {"view", big.narrow(0, 2, 4)}}));
  EXPECT_NE(partly.find("'view' shares memory with the parameter 'w'"), std::string::npos) << partly;
  const at::Tensor b = big.narrow(0, 2, 4).requires_grad_();
  const std::string both = why_not(module_of(with_view, {{"w", a}, {"view", b}}));
  EXPECT_NE(both.find("the parameters 'w' and 'view' share memory"), std::string::npos) << both;
  // Beside one another, or between one another's elements, they share none.
  EXPECT_EQ(why_not(module_of(with_view, {{"w", a}, {"view", big.narrow(0, 4, 4)}})), "");
  const at::Tensor wide = torch::randn({4, 8}, f64);
  const at::Tensor left = wide.narrow(1, 0, 4).requires_grad_(), right = wide.narrow(1, 4, 4).requires_grad_();
  EXPECT_EQ(why_not(module_of(with_view, {{"w", left}, {"view", right}})), "");
}

TEST(ScriptWorkingCopy, TiedParametersStayTiedInFilesAndCopies) {
  torch::manual_seed(0);
  const at::Tensor w = parameter({4, 4}), x = torch::randn({3, 4}, f64);
  const auto module = module_of(with_view, {{"w", w}, {"view", w}});
  const TemporaryFolder folder;
  const std::string path = folder.file("tied.pt");
  detail::NewFile file(path);
  detail::save_module(module, file);
  file.commit();
  ScriptNetwork network(torch::jit::load(path), "layer");
  ASSERT_EQ(network.parameters().size(), 1);
  const auto changed = network.with_weights({{"w", 2 * w.detach()}});
  const at::Tensor expected = torch::tanh(x.matmul(2 * w)).matmul(2 * w);
  EXPECT_TRUE(close(torch::jit::Module(changed).forward({x}).toTensor(), expected));
}

const char* const written = R"(
def forward(self, x, y):
  x.mul_(0.5)
  h = self.layer.forward(x.matmul(self.w))
  y.add_(h)
  return h.matmul(self.w) + x + y
)";

TEST(ScriptWorkingCopy, InputsAreWrittenToAsByOnePlainCall) {
  torch::manual_seed(0);
  const at::Tensor w = parameter({4, 4}), values = torch::randn({3, 4}, f64), embedding = torch::randn({4, 4}, f64);
  auto module = module_of(written, {{"w", w}});
  ScriptNetwork network(module, "layer");
  ASSERT_TRUE(network.dependencies({})->writes_inputs);
  struct Given {
    at::Tensor x, y;
  };
  const std::vector<std::function<Given()>> ways = {
      [&] { return Given{values.clone(), values.clone()}; },
      [&] {
        const at::Tensor same = values.clone();
        return Given{same, same};
      },
      [&] {
        const at::Tensor base = torch::cat({values, values});
        return Given{base.narrow(0, 0, 3), base.narrow(0, 1, 3)};
      }};
  for (const auto& give : ways) {
    const torch::NoGradGuard no_grad;
    const Given plain = give(), own = give(), hooked = give();
    const at::Tensor expected = module.forward({plain.x, plain.y}).toTensor();
    const auto copy = network.checkout(network.parameters());
    const Inputs inputs({own.x, own.y});
    const FirstPass first = copy->predict(inputs);
    EXPECT_TRUE(close(first.prediction, expected));
    const Inject inject([&](const at::Tensor& features) { return features + first.prediction.matmul(embedding); });
    hooked.x.mul_(0.5);
    const at::Tensor h = torch::tanh(hooked.x.matmul(w)) + first.prediction.matmul(embedding);
    hooked.y.add_(h);
    const at::Tensor second = h.matmul(w) + hooked.x + hooked.y;
    for (int i = 0; i < 2; ++i) EXPECT_TRUE(close(copy->resume(inputs, first, &inject), second));
    EXPECT_TRUE(torch::equal(own.x, plain.x));
    EXPECT_TRUE(torch::equal(own.y, plain.y));
  }
}

TEST(ScriptWorkingCopy, StateIsKeptFromPassToPassAndNeverInTheModule) {
  torch::manual_seed(0);
  const at::Tensor w = parameter({4, 4}), x = torch::randn({3, 4}, f64), embedding = torch::randn({4, 4}, f64);
  const at::Tensor calls = torch::zeros({}, f64), mean = torch::zeros({4}, f64);
  const auto module = module_of(
      R"(
def forward(self, x):
  self.calls.add_(1)
  h = self.layer.forward(x.matmul(self.w) + self.calls)
  self.mean.mul_(0.9).add_(h.mean(0))
  return h.matmul(self.w) + self.mean
)",
      {{"w", w}, {"calls", calls}, {"mean", mean}});
  ScriptNetwork network(module, "layer");
  at::Tensor own_calls = calls.clone(), own_mean = mean.clone();
  const Formula formula = [&](const std::optional<at::Tensor>& signal) {
    if (!signal) own_mean = own_mean.detach();
    own_calls = own_calls + 1;
    at::Tensor h = torch::tanh(x.matmul(w) + own_calls);
    if (signal) h = h + signal->matmul(embedding);
    own_mean = own_mean * 0.9 + h.mean(0);
    return h.matmul(w) + own_mean;
  };
  const Options options;
  const auto expected = by_formula(formula, {w}, options);
  for (int i = 0; i < 2; ++i) expect_same(adapt(network, method_by(embedding), options, x), expected);
  EXPECT_EQ(calls.item<double>(), 0);
  EXPECT_TRUE(torch::equal(mean, torch::zeros({4}, f64)));
}

TEST(ScriptWorkingCopy, ParametersThatForwardWritesToStayAsTheyWere) {
  torch::manual_seed(0);
  const at::Tensor table = (10 * torch::randn({20, 6}, f64)).requires_grad_(), before = table.detach().clone();
  const at::Tensor w = parameter({6, 6}), ids = torch::arange(12).view({3, 4}), embedding = torch::randn({6, 6}, f64);
  auto module = module_of(
      R"(
def forward(self, ids):
  torch.embedding_renorm_(self.table.detach(), ids, 1.0, 2.0)
  h = self.layer.forward(torch.embedding(self.table, ids).sum(1))
  return h.matmul(self.w)
)",
      {{"table", table}, {"w", w}});
  ScriptNetwork network(module, "layer");
  const Formula formula = [&](const std::optional<at::Tensor>& signal) {
    at::Tensor values = table.detach();
    at::embedding_renorm_(values, ids, 1.0, 2.0);
    const at::Tensor h = torch::tanh(torch::embedding(table, ids).sum(1));
    return (signal ? h + signal->matmul(embedding) : h).matmul(w);
  };
  for (const auto& names : std::vector<std::vector<std::string>>{{"table", "w"}, {"w"}}) {
    Options options;
    options.parameters = names;
    const auto result = adapt(network, method_by(embedding), options, Inputs(ids));
    EXPECT_TRUE(torch::equal(table, before));
    const auto expected = by_formula(
        formula, names.size() == 2 ? std::vector<at::Tensor>{table, w} : std::vector<at::Tensor>{w}, options);
    table.detach().copy_(before);
    expect_same(result, expected);
  }
  Options none;
  none.num_steps = 0;
  const auto unadapted = adapt(network, method_by(embedding), none, Inputs(ids));
  EXPECT_TRUE(torch::equal(table, before));
  EXPECT_TRUE(torch::equal(unadapted.prediction, module.forward({ids}).toTensor()));
  table.detach().copy_(before);
}

TEST(ScriptWorkingCopy, FirstCallsInThreadsAreAsOneAfterTheOther) {
  torch::manual_seed(0);
  const at::Tensor w = parameter({4, 4}), embedding = torch::randn({4, 4}, f64);
  ScriptNetwork network(module_of(with_view, {{"w", w}, {"view", w.detach().t()}}), "layer");
  const at::Tensor x = torch::randn({8, 3, 4}, f64);
  std::vector<at::Tensor> actual(8), expected(8);
  std::vector<std::thread> pool;
  for (std::int64_t i = 0; i < 8; ++i) {
    pool.emplace_back(
        [&, i] { actual[static_cast<std::size_t>(i)] = adapt(network, method_by(embedding), {}, x[i]).prediction; });
  }
  for (auto& thread : pool) thread.join();
  for (std::int64_t i = 0; i < 8; ++i) {
    expected[static_cast<std::size_t>(i)] = adapt(network, method_by(embedding), {}, x[i]).prediction;
  }
  EXPECT_TRUE(equal(actual, expected));
}

}  // namespace
}  // namespace it3::test
