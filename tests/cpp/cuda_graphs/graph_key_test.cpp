#include "cuda_graphs/graph_key.h"

#include <functional>

#include <ATen/Context.h>
#include <ATen/autocast_mode.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <it3/backend/graphs.h>

#include "cuda_graphs/device_on_cpu.h"

namespace it3::test {
namespace {

using detail::graph_key;
using detail::GraphKey;

/// A tensor that says it is on a CUDA device: nothing here computes with it.
at::Tensor on_cuda(const at::Tensor& t, c10::DeviceIndex index = 0) {
  c10::Storage storage(
      c10::Storage::use_byte_size_t(), t.nbytes(), at::DataPtr(t.data_ptr(), c10::Device(at::kCUDA, index)), nullptr,
      /*resizable=*/false);
  auto cuda = at::detail::make_tensor<c10::TensorImpl>(
      std::move(storage), c10::DispatchKeySet(c10::DispatchKey::CUDA), t.dtype());
  cuda.unsafeGetTensorImpl()->set_sizes_and_strides(t.sizes(), t.strides());
  cuda.set_requires_grad(t.requires_grad());
  return cuda;
}

/// A network of which only what its passes depend on is asked.
struct Known : Network {
  FirstPass predict(const Inputs&, const Inject*) override { return {}; }
  FirstPass prepare(const Inputs&) override { return {}; }
  at::Tensor resume(const Inputs&, const FirstPass&, const Inject*) override { return {}; }
  std::vector<NamedParameter> parameters() const override { return {}; }
  std::unique_ptr<WorkingCopy> checkout(const std::vector<NamedParameter>&, const Normalization&) override {
    return nullptr;
  }
  std::optional<Dependencies> dependencies(const Normalization&) const override { return known; }

  std::optional<Dependencies> known;
};

/// A call that is recorded, and the memory behind its tensors.
struct Call {
  Call() { network.known = Dependencies{{on_cuda(weight)}, /*program=*/1}; }

  std::variant<std::string, GraphKey> operator()() const {
    return graph_key(network, method, options, inputs, with_details, samples);
  }
  GraphKey key() const { return std::get<GraphKey>((*this)()); }
  std::string reason() const {
    const auto key = (*this)();
    const auto* const why = std::get_if<std::string>(&key);
    EXPECT_EQ(why != nullptr ? *why : "", Graphs::why_not(network, method, options, inputs));
    return why != nullptr ? *why : "";
  }

  at::Tensor x = torch::zeros({4, 3}), weight = torch::zeros({3, 2}), read = torch::zeros({2});
  at::Tensor other_weight = torch::zeros({3, 2}), other_read = torch::zeros({2}), wide = torch::zeros({4, 6});
  Known network;
  Method method{nullptr, nullptr, distance_by_name("mse"), true, {}, std::vector<at::Tensor>{on_cuda(read)}};
  Options options;
  Inputs inputs{std::vector<c10::IValue>{on_cuda(x), 0.1}, {{"mask", on_cuda(x)}, {"mode", std::string("a")}}};
  bool with_details = false;
  std::optional<std::int64_t> samples;
};

TEST(GraphKey, TellsMethodsApart) {
  Call call;
  const GraphKey before = call.key();
  const Method method = call.method;
  call.method.feeds_probabilities = true;  // as after training by class indices
  EXPECT_FALSE(before == call.key());
  call.method = method;
  call.method.distance = distance_by_name("l1");
  EXPECT_FALSE(before == call.key());
  call.method = method;
  call.method.prediction_layout = {.channel_dim = 2};
  EXPECT_FALSE(before == call.key());
  call.method = method;
  EXPECT_TRUE(before == call.key());
}

TEST(GraphKey, IsEqualForCallsThatDifferOnlyInTheMemoryOfInputs) {
  Call call;
  const GraphKey before = call.key();
  EXPECT_TRUE(before == call.key());
  const at::Tensor elsewhere = torch::ones({4, 3});
  call.inputs.args[0] = on_cuda(elsewhere);
  call.inputs.kwargs["mask"] = on_cuda(elsewhere);
  EXPECT_TRUE(before == call.key());
}

struct Change {
  const char* name;
  std::function<void(Call&)> make;
};

class OtherGraphKey : public testing::TestWithParam<Change> {};

TEST_P(OtherGraphKey, IsThatOfAnotherCall) {
  Call call;
  const GraphKey before = call.key();
  GetParam().make(call);
  EXPECT_FALSE(before == call.key());
}

INSTANTIATE_TEST_SUITE_P(
    Changes,
    OtherGraphKey,
    testing::Values(
        Change{"LearningRate", [](Call& c) { c.options.lr = 2e-4; }},
        Change{"Steps", [](Call& c) { c.options.num_steps = 4; }},
        Change{"Normalization", [](Call& c) { c.options.set("norm_statistics", std::string("batch")); }},
        Change{"Details", [](Call& c) { c.with_details = true; }},
        Change{"PerSample", [](Call& c) { c.samples = 4; }},
        Change{"Program", [](Call& c) { c.network.known->program = 2; }},
        Change{"MemoryOfAWeight", [](Call& c) { c.network.known->tensors = {on_cuda(c.other_weight)}; }},
        Change{"ShapeOfAWeight", [](Call& c) { c.network.known->tensors = {on_cuda(c.weight.view({2, 3}))}; }},
        Change{"MemoryOfTheEmbedder", [](Call& c) { c.method.reads = {on_cuda(c.other_read)}; }},
        Change{"ShapeOfAnInput", [](Call& c) { c.inputs.args[0] = on_cuda(c.x.view({3, 4})); }},
        Change{"RankOfAnInput", [](Call& c) { c.inputs.args[0] = on_cuda(c.x.view({4, 3, 1})); }},
        Change{"StridesOfAnInput", [](Call& c) { c.inputs.args[0] = on_cuda(c.wide.slice(1, 0, 6, 2)); }},
        Change{"TypeOfAnInput", [](Call& c) { c.inputs.args[0] = on_cuda(c.x.view(torch::kInt32)); }},
        Change{"GradientsOfAnInput", [](Call& c) { c.inputs.args[0] = on_cuda(c.x.requires_grad_()); }},
        Change{"ShapeOfAKeyword", [](Call& c) { c.inputs.kwargs["mask"] = on_cuda(c.x.view({12})); }},
        Change{"LastDigitOfANumber", [](Call& c) { c.inputs.args[1] = std::nextafter(0.1, 1); }},
        Change{"AnotherNumber", [](Call& c) { c.inputs.args.emplace_back(1.0); }},
        Change{"NothingInAPlace", [](Call& c) { c.inputs.args[1] = c10::IValue(); }},
        Change{"KeywordsValue", [](Call& c) { c.inputs.kwargs["mode"] = std::string("b"); }},
        Change{
            "KeywordsName",
            [](Call& c) {
              c.inputs.kwargs.erase("mask");
              c.inputs.kwargs["mast"] = on_cuda(c.x);
            }},
        Change{
            "WhichKeywordHasTheTensor",
            [](Call& c) { std::swap(c.inputs.kwargs.at("mask"), c.inputs.kwargs.at("mode")); }}),
    [](const auto& test) { return test.param.name; });

TEST(GraphKey, TellsKindsOfValuesApart) {
  Call call;
  const auto with = [&](std::vector<c10::IValue> args) {
    call.inputs.args = std::move(args);
    return call.key();
  };
  const at::Tensor a = on_cuda(call.x), b = on_cuda(call.x);
  const c10::IValue list = std::vector<at::Tensor>{a, b};
  EXPECT_TRUE(with({list}) == with({list}));
  EXPECT_FALSE(with({a, 1.0}) == with({a, std::int64_t{1}}));
  EXPECT_FALSE(with({list}) == with({a, b}));
  EXPECT_FALSE(with({a, c10::IValue()}) == with({c10::IValue(), a}));
  EXPECT_FALSE(with({a, 1.0}) == with({1.0, a}));
  EXPECT_FALSE(with({a, "x", "y"}) == with({a, "x,y"}));
  EXPECT_FALSE(with({a, "tensor"}) == with({a, b}));
  EXPECT_FALSE(with({a, std::vector<std::string>{"p, q"}}) == with({a, std::vector<std::string>{"p", "q"}}));
  EXPECT_FALSE(with({list}) == with({c10::ivalue::Tuple::create(a, b)}));
  EXPECT_FALSE(
      with({c10::ivalue::Tuple::create(a, c10::IValue())}) == with({c10::ivalue::Tuple::create(c10::IValue(), b)}));
}

TEST(GraphKey, DependsOnWhatTorchIsToldToDo) {
  const Call call;
  const GraphKey before = call.key();
  auto& context = at::globalContext();
  context.setDeterministicAlgorithms(true, /*warn_only=*/true);
  EXPECT_FALSE(before == call.key());
  context.setDeterministicAlgorithms(false, false);
  context.setBenchmarkCuDNN(!context.benchmarkCuDNN());
  EXPECT_FALSE(before == call.key());
  context.setBenchmarkCuDNN(!context.benchmarkCuDNN());
  at::autocast::set_autocast_enabled(at::kCUDA, true);
  EXPECT_FALSE(before == call.key());
  at::autocast::set_autocast_enabled(at::kCUDA, false);
  EXPECT_TRUE(before == call.key());
}

TEST(GraphKey, IsNotMadeWhereThereAreNoGraphs) {
  const Call call;
  device.has_graphs = false;
  EXPECT_EQ(call.reason(), "this it3 was built without CUDA");
  device.has_graphs = true;
  EXPECT_EQ(call.reason(), "");
}

struct Refusal {
  const char* name;
  std::function<void(Call&)> make;
  const char* reason;
};

class NoGraphKey : public testing::TestWithParam<Refusal> {};

TEST_P(NoGraphKey, HasAReason) {
  Call call;
  EXPECT_EQ(call.reason(), "");
  GetParam().make(call);
  EXPECT_EQ(call.reason(), GetParam().reason);
}

constexpr auto of_values = "tolerance or threshold is set, so what is computed depends on the data";
constexpr auto of_devices = "not all tensors are on one device";

INSTANTIATE_TEST_SUITE_P(
    Reasons,
    NoGraphKey,
    testing::Values(
        Refusal{"OnACpu", [](Call& c) { c.inputs = c.x; }, "it does not run on a CUDA device"},
        Refusal{"WithoutTensors", [](Call& c) { c.inputs = Inputs(); }, "it does not run on a CUDA device"},
        Refusal{"Off", [](Call& c) { c.options.cuda_graphs = false; }, "cuda_graphs is 'off'"},
        Refusal{
            "Online", [](Call& c) { c.options.copy_model = false; },
            "copy_model is False, so each call starts from different weights"},
        Refusal{"Tolerance", [](Call& c) { c.options.tolerance = 0.1; }, of_values},
        Refusal{"Threshold", [](Call& c) { c.options.threshold = 0.1; }, of_values},
        Refusal{"NeutralSignal", [](Call& c) { c.method.neutral = torch::zeros({}); }, "neutral is set"},
        Refusal{
            "UnknownPasses", [](Call& c) { c.network.known.reset(); },
            "the model is not cut at the layer (it runs in Python, or is a torch::nn module)"},
        Refusal{
            "WrittenInputs", [](Call& c) { c.network.known->writes_inputs = true; }, "the model writes to its inputs"},
        Refusal{
            "UnknownFunctions", [](Call& c) { c.method.reads.reset(); },
            "embedder, combine_fn or distance_fn is a function that may have side effects; the defaults, distances by "
            "name and TorchScript have none"},
        Refusal{"InputElsewhere", [](Call& c) { c.inputs.args.emplace_back(c.x); }, of_devices},
        Refusal{"InputOnAnotherGpu", [](Call& c) { c.inputs.args.emplace_back(on_cuda(c.x, 1)); }, of_devices},
        Refusal{"WeightElsewhere", [](Call& c) { c.network.known->tensors.push_back(c.weight); }, of_devices},
        Refusal{"EmbedderElsewhere", [](Call& c) { c.method.reads->push_back(c.read); }, of_devices}),
    [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace it3::test
