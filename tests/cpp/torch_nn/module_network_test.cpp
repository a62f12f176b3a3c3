#include "network_fixture.h"

namespace it3::test {
namespace {

TEST(ModuleNetwork, NeedsOneInjectionPoint) {
  EXPECT_THROW(ModuleNetwork{torch::nn::Sequential(torch::nn::Linear(2, 2))}, c10::ValueError);
  EXPECT_THROW(ModuleNetwork{torch::nn::Sequential(InjectionPoint(), InjectionPoint())}, c10::ValueError);
}

TEST(ModuleNetwork, InjectsInASequential) {
  torch::manual_seed(0);
  const torch::nn::Linear a(3, 4), b(4, 2);
  ModuleNetwork network(torch::nn::Sequential(a, InjectionPoint(), torch::nn::Tanh(), b));
  const auto x = torch::randn({5, 3});
  const FirstPass first = network.predict(x);
  const auto hidden = x.matmul(a->weight.t()) + a->bias;
  EXPECT_TRUE(torch::allclose(first.prediction, hidden.tanh().matmul(b->weight.t()) + b->bias));
  const Inject inject([](const at::Tensor& features) { return features * 2; });
  const auto second = network.resume(x, first, &inject);
  EXPECT_TRUE(torch::allclose(second, (hidden * 2).tanh().matmul(b->weight.t()) + b->bias));
}

/// Counts its calls.
struct CountImpl : torch::nn::Module {
  at::Tensor forward(const at::Tensor& x) {
    ++calls;
    return x;
  }
  int calls = 0;
};
TORCH_MODULE(Count);

TEST(ModuleNetwork, CutsASequentialBehindANamedChild) {
  torch::manual_seed(0);
  const torch::nn::Linear a(3, 4), b(4, 4), c(4, 2);
  const Count before;
  const torch::nn::ReLU in_place(torch::nn::ReLUOptions().inplace(true));
  const torch::nn::Sequential model({{"a", a}, {"count", before}, {"b", b}, {"relu", in_place}, {"c", c}});
  const auto x = torch::randn({5, 3});
  const Inject twice([](const at::Tensor& features) { return features * 2; });
  const auto after_a = x.matmul(a->weight.t()) + a->bias;
  const auto after_b = after_a.matmul(b->weight.t()) + b->bias;
  const auto end = [&](const at::Tensor& y) { return y.relu().matmul(c->weight.t()) + c->bias; };

  ModuleNetwork at_b(model, "b");
  const FirstPass first = at_b.predict(x);
  EXPECT_TRUE(torch::allclose(first.prediction, end(after_b)));
  EXPECT_TRUE(torch::allclose(at_b.resume(x, first, &twice), end(after_b * 2)));
  EXPECT_EQ(before->calls, 1);  // what comes before runs once for both passes

  // Both kinds of cut adapt alike.
  const torch::nn::Sequential with_point(a, b, InjectionPoint(), torch::nn::ReLU(), c);
  Engine cut(std::make_shared<ModuleNetwork>(model, "b"));
  Engine pointed(std::make_shared<ModuleNetwork>(with_point), {}, cut.embedder());
  EXPECT_TRUE(torch::allclose(cut.adapt(x).prediction, pointed.adapt(x).prediction));
}

TEST(ModuleNetwork, SaysWhichChildrenThereAre) {
  const torch::nn::Sequential model({{"first", torch::nn::Linear(2, 2)}, {"last", torch::nn::Linear(2, 2)}});
  try {
    ModuleNetwork(model, "frst");
    FAIL();
  } catch (const c10::ValueError& error) {
    EXPECT_NE(std::string(error.what()).find("no child 'frst'; its children are first, last"), std::string::npos);
  }
}

TEST(ModuleNetwork, SaysIfThePointIsNotReached) {
  auto module = torch::nn::Sequential(torch::nn::Linear(3, 2), InjectionPoint());
  ModuleNetwork network(module.ptr(), [](const Inputs& inputs) { return inputs.args[0].toTensor(); });
  const auto x = torch::randn({5, 3});
  const Inject inject([](const at::Tensor& features) { return features; });
  EXPECT_THROW(network.resume(x, network.predict(x), &inject), c10::Error);
}

TEST(ModuleNetwork, NamesEachParameterOnce) {
  Net net;
  net->last->bias = net->register_parameter("tied", net->first->bias);
  ModuleNetwork network(net);
  std::vector<std::string> names, of_normalization;
  for (const auto& parameter : network.parameters()) {
    names.push_back(parameter.name);
    if (parameter.of_normalization) of_normalization.push_back(parameter.name);
  }
  EXPECT_EQ(names.size(), 8);
  EXPECT_EQ(of_normalization, (std::vector<std::string>{"norm.weight", "norm.bias"}));
}

/// Why something raised c10::ValueError.
template <typename Function>
std::string error_of(const Function& function) {
  try {
    function();
  } catch (const c10::ValueError& error) {
    return error.what_without_backtrace();
  }
  return "";
}

TEST(ModuleNetwork, TakesOneTensorAndSaysSo) {
  const torch::nn::Sequential model({{"a", torch::nn::Linear(3, 2)}, {"b", torch::nn::Tanh()}});
  Engine cut(std::make_shared<ModuleNetwork>(model, "a"));
  Engine pointed(torch::nn::Sequential(torch::nn::Linear(3, 2), InjectionPoint()));
  const auto x = torch::randn({4, 3});
  for (Engine* const engine : {&cut, &pointed}) {
    const auto raised = [&](const Inputs& inputs) { return error_of([&] { engine->adapt(inputs); }); };
    EXPECT_NE(raised({x, x}).find("2 positional (Tensor, Tensor)"), std::string::npos);
    EXPECT_NE(raised(Inputs({x}, {{"mask", x}})).find("1 keywords (mask)"), std::string::npos);
    EXPECT_NE(raised(Inputs({}, {{"mask", x}})).find("0 positional ()"), std::string::npos);
    EXPECT_NE(raised(Inputs()).find("0 positional"), std::string::npos);
    EXPECT_NE(raised(at::Tensor()).find("undefined Tensor"), std::string::npos);
    EXPECT_NE(raised(Inputs({std::vector<at::Tensor>{x}})).find("one tensor"), std::string::npos);
    EXPECT_EQ(raised(x), "");
    EXPECT_EQ(raised({x}), "");
  }
}

TEST(ModuleNetwork, AdaptsInEvalModeAndGivesTheFlagsBack) {
  torch::manual_seed(0);
  auto norm = torch::nn::BatchNorm1d(8);
  torch::nn::Sequential model(
      {{"a", torch::nn::Linear(5, 8)}, {"norm", norm}, {"drop", torch::nn::Dropout()}, {"b", torch::nn::Linear(8, 3)}});
  Engine engine(std::make_shared<ModuleNetwork>(model, "drop"));
  const auto x = torch::randn({6, 5});
  for (const auto statistics : {NormStatistics::running, NormStatistics::batch}) {
    engine.options.norm_statistics = statistics;
    model->eval();
    const auto expected = engine.adapt(x);
    model->train();
    norm->eval();
    EXPECT_TRUE(torch::equal(engine.adapt(x).prediction, expected.prediction));
    EXPECT_TRUE(torch::equal(engine.adapt(x).losses, expected.losses));
    EXPECT_TRUE(model->is_training());
    EXPECT_FALSE(norm->is_training());
    EXPECT_TRUE(model[2]->is_training());
    EXPECT_EQ(norm->num_batches_tracked.item<std::int64_t>(), 0);
  }
}

TEST(ModuleNetwork, TrainingDrawsAnewInEachPass) {
  torch::manual_seed(0);
  torch::nn::Sequential model(
      {{"a", torch::nn::Linear(5, 8)},
       {"norm", torch::nn::BatchNorm1d(8)},
       {"drop", torch::nn::Dropout()},
       {"b", torch::nn::Linear(8, 8)},
       {"drop2", torch::nn::Dropout()},
       {"c", torch::nn::Linear(8, 3)}});
  const auto x = torch::randn({6, 5});
  const Inject as_it_is([](const at::Tensor& features) { return features; });
  ModuleNetwork network(model, "b");
  for (const bool trains : {true, false}) {
    model->train(trains);
    const auto counted = model->named_buffers()["norm.num_batches_tracked"].item<std::int64_t>();
    torch::manual_seed(1);
    const FirstPass first = network.predict(x);
    const at::Tensor second = network.resume(x, first, &as_it_is);
    EXPECT_EQ(model->named_buffers()["norm.num_batches_tracked"].item<std::int64_t>(), counted + (trains ? 1 : 0));
    torch::manual_seed(1);
    EXPECT_TRUE(torch::allclose(first.prediction, model->forward(x)));
    EXPECT_TRUE(torch::allclose(second, model->forward(x)));
    EXPECT_EQ(torch::allclose(second, first.prediction), !trains);
  }
}

TEST(ModuleNetwork, KeepsWhatTheHeadGave) {
  torch::manual_seed(0);
  const torch::nn::Linear last(4, 2);
  const torch::nn::ReLU in_place(torch::nn::ReLUOptions().inplace(true));
  const torch::nn::Sequential model({{"a", torch::nn::Linear(3, 4)}, {"relu", in_place}, {"last", last}});
  const torch::nn::Sequential plain(
      {{"a", model->ptr<torch::nn::LinearImpl>(0)}, {"relu", torch::nn::ReLU()}, {"last", last}});
  const auto x = torch::randn({5, 3});
  const Embed embed = [](const at::Tensor& y, const at::Tensor& features) { return y.sum() + features * 0; };
  const std::vector<Combine> combines = {
      [](const at::Tensor& features, const at::Tensor&) { return features; },
      [](const at::Tensor& features, const at::Tensor&) { return features.view({5, 4}); },
      [](const at::Tensor& features, const at::Tensor& embedding) { return features.add_(embedding); }};
  for (const std::vector<std::string>& parameters : {std::vector<std::string>{"last"}, {"all"}}) {
    for (std::size_t i = 0; i < combines.size(); ++i) {
      const Combine pure = [i](const at::Tensor& features, const at::Tensor& embedding) {
        return i == 2 ? features + embedding : features.clone();
      };
      Engine engine(std::make_shared<ModuleNetwork>(model, "a"), {.parameters = parameters}, embed, combines[i]);
      Engine expected(std::make_shared<ModuleNetwork>(plain, "a"), {.parameters = parameters}, embed, pure);
      EXPECT_TRUE(torch::allclose(engine.adapt(x).prediction, expected.adapt(x).prediction));
      EXPECT_TRUE(torch::allclose(engine.adapt(x).losses, expected.adapt(x).losses));
    }
  }
}

TEST(ModuleNetwork, AModelMadeInInferenceModePredictsButDoesNotAdapt) {
  torch::nn::Sequential model(nullptr);
  {
    const c10::InferenceMode inference;
    model = torch::nn::Sequential(
        {{"a", torch::nn::Linear(3, 4)}, {"norm", torch::nn::BatchNorm1d(4)}, {"b", torch::nn::Linear(4, 2)}});
    model->eval();
  }
  const auto x = torch::randn({5, 3});
  Engine engine(std::make_shared<ModuleNetwork>(model, "a"), {.num_steps = 0});
  at::Tensor expected;
  {
    const c10::InferenceMode inference;
    expected = model->forward(x);
  }
  EXPECT_TRUE(torch::equal(engine.adapt(x).prediction, expected));
  EXPECT_EQ(engine.uncertainty(x).sizes(), (std::vector<std::int64_t>{5}));
  engine.options.num_steps = 1;
  EXPECT_NE(error_of([&] { engine.adapt(x); }).find("created in inference mode"), std::string::npos);
  for (const auto& p : model->parameters()) EXPECT_TRUE(p.requires_grad());
}

/// y = x w + x b, where b is another view of w.
struct SharedImpl : torch::nn::Cloneable<SharedImpl> {
  SharedImpl() { SharedImpl::reset(); }
  void reset() override {
    w = register_parameter("w", torch::randn({4, 4}, f64));
    b = register_buffer("b", w.detach().t());
    point = register_module("point", InjectionPoint());
  }
  at::Tensor forward(const at::Tensor& x) { return point(x.matmul(w)).tanh() + x.matmul(b); }
  at::Tensor w, b;
  InjectionPoint point{nullptr};
};
TORCH_MODULE(Shared);

TEST(ModuleNetwork, BuffersOverAParametersMemoryFollowIt) {
  torch::manual_seed(0);
  Shared model, twin;
  const auto x = torch::randn({5, 4}, f64);
  {
    const torch::NoGradGuard no_grad;
    twin->w.copy_(model->w);
  }
  const auto before = model->w.detach().clone();
  const Embed embed = [](const at::Tensor& y, const at::Tensor&) { return y * 0.5; };
  Options options{.num_steps = 3, .lr = 0.05};
  for (const auto optimizer : {OptimizerKind::sgd, OptimizerKind::adam}) {
    options.optimizer_name = optimizer;
    Engine engine(model, options, embed);
    const auto prediction = engine.adapt(x).prediction;
    // By hand, on the twin, whose buffer follows by itself.
    std::unique_ptr<torch::optim::Optimizer> steps;
    if (optimizer == OptimizerKind::sgd) {
      steps = std::make_unique<torch::optim::SGD>(twin->parameters(), 0.05);
    } else {
      steps = std::make_unique<torch::optim::Adam>(twin->parameters(), 0.05);
    }
    for (int step = 0; step < 3; ++step) {
      const auto y0 = twin->forward(x);
      const auto y1 = (x.matmul(twin->w) + y0 * 0.5).tanh() + x.matmul(twin->b);
      steps->zero_grad();
      torch::mse_loss(y1, y0).backward();
      steps->step();
    }
    EXPECT_TRUE(close(prediction, twin->forward(x)));
    EXPECT_TRUE(torch::equal(model->w.detach(), before));
    EXPECT_TRUE(torch::equal(model->b, before.t()));
    const torch::NoGradGuard no_grad;
    twin->w.copy_(before);
  }
}

/// An embedding that limits its rows' norms, by writing to its weights.
struct WordsImpl : torch::nn::Module {
  at::Tensor forward(const at::Tensor& words) {
    if (also_scales) last->weight.data().mul_(0.5);
    return last(point(table(words)));
  }
  torch::nn::Embedding table =
      register_module("table", torch::nn::Embedding(torch::nn::EmbeddingOptions(20, 6).max_norm(1)));
  InjectionPoint point = register_module("point", InjectionPoint());
  torch::nn::Linear last = register_module("last", torch::nn::Linear(6, 2));
  bool also_scales = false;
};
TORCH_MODULE(Words);

TEST(ModuleNetwork, WhatForwardWritesToItsWeightsDoesNotStay) {
  torch::manual_seed(0);
  Words model, twin;
  {
    const torch::NoGradGuard no_grad;
    model->table->weight.mul_(10);
    for (std::size_t i = 0; i < 3; ++i) twin->parameters()[i].copy_(model->parameters()[i]);
  }
  const auto words = torch::randint(20, {7});
  const auto table = model->table->weight.detach().clone(), last = model->last->weight.detach().clone();
  const auto expected = twin->forward(words).detach();
  Engine engine(model);
  const auto is_as_before = [&] {
    return torch::equal(model->table->weight.detach(), table) && torch::equal(model->last->weight.detach(), last);
  };
  for (int call = 0; call < 3; ++call) {
    for (const bool adapts : {false, true}) {
      engine.options.num_steps = adapts ? 2 : 0;
      engine.options.parameters = {"last"};
      const auto prediction = engine.adapt(words).prediction;
      EXPECT_TRUE(is_as_before());
      EXPECT_EQ(torch::equal(prediction, expected), !adapts);
    }
    engine.options.anchor = AnchorKind::frozen;
    engine.options.parameters = {"all"};
    engine.adapt(words);
    EXPECT_TRUE(is_as_before());
    engine.uncertainty(words);
    EXPECT_TRUE(is_as_before());
  }
  // What autograd is not told of.
  model->also_scales = true;
  Engine scaling(model, {.num_steps = 0});
  for (int call = 0; call < 2; ++call) {
    scaling.adapt(words);
    EXPECT_TRUE(is_as_before());
  }
}

/// Counts its passes in a buffer, and another one over the same memory.
struct PassesImpl : torch::nn::Module {
  at::Tensor forward(const at::Tensor& x) {
    count.add_(1);
    return point(x) + view;
  }
  at::Tensor count = register_buffer("count", torch::zeros({2}));
  at::Tensor view = register_buffer("view", count.slice(0, 1, 2));
  InjectionPoint point = register_module("point", InjectionPoint());
};
TORCH_MODULE(Passes);

TEST(ModuleNetwork, AWorkingCopyGoesOnWithWhatItsPassesWrote) {
  const Passes model;
  const Embed nothing = [](const at::Tensor&, const at::Tensor& features) { return features * 0; };
  Engine engine(model, {.num_steps = 0}, nothing);
  const auto x = torch::randn({3, 2});
  for (int call = 0; call < 2; ++call) {
    const auto adaptation = engine.adapt(x, /*with_details=*/true);
    EXPECT_TRUE(torch::equal(adaptation.first, x + 1));
    EXPECT_TRUE(torch::equal(adaptation.second, x + 2));
    EXPECT_TRUE(torch::equal(model->count, torch::zeros({2})));
  }
}

TEST(ModuleNetwork, AnEmbedderMayCallTheModel) {
  torch::manual_seed(0);
  Problem problem;
  Net net = problem.net;
  const at::Tensor sum = net->forward(problem.x).sum().detach();
  const Embed signal = [&](const at::Tensor&, const at::Tensor& features) { return sum + features * 0; };
  const Embed calls = [&](const at::Tensor&, const at::Tensor& features) {
    const torch::NoGradGuard no_grad;
    return net->forward(problem.x).sum() + features * 0;
  };
  Engine engine(problem.network, {.num_steps = 0}, calls), expected(problem.network, {.num_steps = 0}, signal);
  EXPECT_TRUE(close(engine.adapt(problem.x, true).second, expected.adapt(problem.x, true).second));
  EXPECT_FALSE(torch::equal(engine.adapt(problem.x, true).second, engine.adapt(problem.x).prediction));
  engine.options.num_steps = 2;
  const std::string error = error_of([&] { engine.adapt(problem.x); });  // the model has adapted weights meanwhile
  EXPECT_NE(error.find("the embedder computes with the model's weight 'first.weight'"), std::string::npos) << error;
}

TEST(ModuleNetwork, InjectionPointsAndEmbeddersAreCloned) {
  torch::manual_seed(0);
  const torch::nn::Sequential model(torch::nn::Linear(3, 4), InjectionPoint(), torch::nn::Linear(4, 2));
  Engine engine(model);
  const auto x = torch::randn({5, 3});
  const auto expected = engine.adapt(x).prediction;
  const auto copy = std::dynamic_pointer_cast<torch::nn::SequentialImpl>(model->clone());
  const auto embedder = std::dynamic_pointer_cast<EmbedderImpl>(engine.embedder()->clone());
  {
    const torch::NoGradGuard no_grad;
    model->parameters()[0].zero_();
    engine.embedder()->weights().weight1.zero_();
  }
  Engine cloned(copy, {}, Embedder(embedder));
  EXPECT_TRUE(torch::equal(cloned.adapt(x).prediction, expected));
  EXPECT_FALSE(Embedder()->clone() == nullptr);
}

TEST(ModuleNetwork, WarnsOnceThatSamplesAdaptOneAfterAnother) {
  struct Handler : c10::WarningHandler {
    void process(const c10::Warning&) override { ++warnings; }
    int warnings = 0;
  } handler;
  Problem problem;
  Engine engine(problem.network, {.per_sample = true});
  engine.set_trained(true);  // of which it would warn too
  c10::WarningUtils::WarningHandlerGuard guard(&handler);
  const c10::WarningUtils::WarnAlways always(true);
  for (int call = 0; call < 3; ++call) engine.adapt(problem.x);
  EXPECT_EQ(handler.warnings, 1);
}

}  // namespace
}  // namespace it3::test
