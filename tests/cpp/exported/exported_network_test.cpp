#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <it3/it3.h>
#include <torch/csrc/jit/serialization/pickle.h>

#include "error_of.h"
#include "temporary_folder.h"

namespace it3::test {
namespace {

/// What make_programs.py has written.
std::string program(const std::string& name) {
  const char* const folder = std::getenv("IT3_EXPORTED_PROGRAMS");
  TORCH_CHECK(folder != nullptr, "IT3_EXPORTED_PROGRAMS is the folder that exported/make_programs.py writes to");
  return std::string(folder) + "/" + name;
}

std::string content_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

struct Case {
  std::string name;
  std::string layer;
  std::optional<OutputPath> output = std::nullopt, layer_output = std::nullopt;
};

class ExportedPrograms : public testing::TestWithParam<Case> {
 protected:
  ExportedPrograms() {
    const std::string content = content_of(program(GetParam().name + ".pt"));
    const auto value = torch::pickle_load({content.begin(), content.end()});
    const auto& parts = value.toTupleRef().elements();
    inputs = Inputs(parts[0].toListRef().vec());
    plain = parts[1].toTensor();
    injected = parts[2].toTensor();
    for (const auto& entry : parts[3].toGenericDict()) gradients[entry.key().toStringRef()] = entry.value().toTensor();
  }

  std::shared_ptr<ExportedNetwork> network() const {
    const auto& [name, layer, output, layer_output] = GetParam();
    return std::make_shared<ExportedNetwork>(program(name + ".pt2"), layer, output, std::nullopt, layer_output);
  }

  Inputs inputs;
  at::Tensor plain, injected;
  std::map<std::string, at::Tensor> gradients;
  const Inject add_one = [](const at::Tensor& features) { return features + 1; };
};

void expect_error(const std::function<void()>& work, const std::string& text) {
  const std::string error = error_of(work);
  EXPECT_NE(error.find(text), std::string::npos) << error << "\nrather than " << text;
}

void expect_close(const at::Tensor& actual, const at::Tensor& expected) {
  EXPECT_EQ(actual.scalar_type(), expected.scalar_type());
  EXPECT_TRUE(torch::allclose(actual, expected, 1e-5, 1e-6)) << (actual - expected).abs().max();
}

TEST_P(ExportedPrograms, PredictAndInjectAsTheirModelsDo) {
  const auto cut = network();
  const FirstPass first = cut->predict(inputs);
  expect_close(first.prediction, plain);
  expect_close(cut->resume(inputs, first, &add_one), injected);
}

TEST_P(ExportedPrograms, HaveTheirModelsGradients) {
  const auto cut = network();
  const auto parameters = cut->parameters();
  ASSERT_EQ(parameters.size(), gradients.size());
  const auto copy = cut->checkout(parameters);
  const at::Tensor second = copy->resume(inputs, copy->prepare(inputs), &add_one);
  const auto actual = torch::autograd::grad({second.square().sum()}, copy->leaves());
  for (std::size_t i = 0; i < actual.size(); ++i) expect_close(actual[i], gradients.at(parameters[i].name));
}

TEST_P(ExportedPrograms, AdaptInAnEngine) {
  torch::manual_seed(1);
  Options options;
  options.num_steps = 2;
  options.lr = 1e-3;
  Engine engine(network(), options);
  engine.set_trained(true);
  const Adaptation adaptation = engine.adapt(inputs);
  EXPECT_EQ(adaptation.steps(), 2);
  EXPECT_LT(adaptation.losses[1].item<double>(), adaptation.losses[0].item<double>());
  EXPECT_GT((adaptation.prediction - plain).abs().max().item<double>(), 0);
  expect_close(network()->predict(inputs).prediction, plain);
}

INSTANTIATE_TEST_SUITE_P(
    Networks,
    ExportedPrograms,
    testing::Values(
        Case{"convolutional", "encoder"},
        Case{"recurrent", "lstm"},
        Case{"attending", "encoder"},
        Case{"various", "second", OutputPath{"y"}},
        Case{"branching", "branches", std::nullopt, OutputPath{"pair", 1}},
        Case{"fixed", "0"},
        Case{"moved", "layer"}),
    [](const auto& each) { return each.param.name; });

TEST(ExportedNetwork, TakesTheSizesThatItWasExportedFor) {
  ExportedNetwork any(program("convolutional.pt2"), "encoder"), fixed(program("fixed.pt2"), "0");
  for (const std::int64_t batch : {1, 2, 7}) {
    EXPECT_EQ(any.predict(torch::randn({batch, 3, 6, 6})).prediction.size(0), batch);
  }
  expect_error([&] { any.predict(torch::randn({2, 3, 8, 6})); }, "not for inputs of these sizes: [2, 3, 8, 6]");
  expect_error([&] { any.predict(torch::randn({3, 6, 6})); }, "not for inputs of these sizes: [3, 6, 6]");
  expect_error([&] { fixed.predict(torch::randn({2, 4})); }, "size_0_0 == 3");
}

TEST(ExportedNetwork, TakesNumbersForKeysOfDictionaries) {
  const auto marked_value = [](std::int64_t key) {
    ExportedGraph graph = read_exported_program(program("branching.pt2"), std::nullopt, std::nullopt);
    mark_layer(graph, "branches", OutputPath{"numbered", key});
    for (const ExportedOperation& operation : graph.operations) {
      if (operation.target != features_target) continue;
      return std::get<ExportedArgument::Value>(operation.arguments.at(0).second.is).name;
    }
    return std::string();
  };
  // Of what the layer returns, the value of the key 1 comes first: x * 3 and x * 2.
  const ExportedGraph graph = read_exported_program(program("branching.pt2"), std::nullopt, std::nullopt);
  const auto factor_of = [&](const std::string& value) {
    for (const ExportedOperation& operation : graph.operations) {
      if (operation.results.front() == value) return std::get<c10::IValue>(operation.arguments.at(1).second.is).toInt();
    }
    return std::int64_t(0);
  };
  EXPECT_EQ(factor_of(marked_value(1)), 3);
  EXPECT_EQ(factor_of(marked_value(0)), 2);
}

TEST(ExportedNetwork, SaysWhatItCannotReadOfALayersOutputs) {
  for (const char* const damaged : {"garbage", "[]", "[1, {}]"}) {
    ExportedGraph graph = read_exported_program(program("branching.pt2"), std::nullopt, std::nullopt);
    graph.calls.at(0).structure = damaged;
    expect_error(
        [&] { mark_layer(graph, "branches", OutputPath{"pair", 0}); }, "what the layer returns cannot be read");
  }
}

TEST(ExportedNetwork, ReadsConditionsAsNewerTorchWritesThem) {
  ExportedGraph graph = read_exported_program(program("convolutional.pt2"), std::nullopt, std::nullopt);
  const std::string size = c10::str("L['", graph.inputs.at(0).value, "'].size()[0]");
  graph.conditions.push_back("torch.sym_min(" + size + ", torch.sym_max(2, 3)) == 3");
  mark_layer(graph, "encoder");
  ExportedNetwork network(graph, "encoder");
  EXPECT_EQ(network.predict(torch::randn({4, 3, 6, 6})).prediction.size(0), 4);
  expect_error([&] { network.predict(torch::randn({2, 3, 6, 6})); }, "min(size_0_0, max(2, 3)) == 3");
}

TEST(ExportedNetwork, SamplesAdaptByThemselves) {
  torch::manual_seed(0);
  Engine engine(std::make_shared<ExportedNetwork>(program("convolutional.pt2"), "encoder"));
  engine.set_trained(true);
  engine.options.num_steps = 2;
  const at::Tensor x = torch::randn({5, 3, 6, 6});
  engine.options.per_sample = true;
  const at::Tensor together = engine.adapt(x).prediction;
  engine.options.per_sample = false;
  for (std::int64_t i = 0; i < 5; ++i) {
    EXPECT_TRUE(torch::allclose(together[i], engine.adapt(x.slice(0, i, i + 1)).prediction[0], 1e-4, 1e-5));
  }
}

TEST(ExportedNetwork, IsSavedByItsStateOnly) {
  const TemporaryFolder folder;
  const auto engine_with = [&](double lr) {
    Options options;
    options.lr = lr;
    options.copy_model = false;
    torch::manual_seed(0);
    return Engine(std::make_shared<ExportedNetwork>(program("convolutional.pt2"), "encoder"), options);
  };
  Engine engine = engine_with(1e-2), other = engine_with(1e-2);
  const at::Tensor x = torch::randn({5, 3, 6, 6});
  engine.set_trained(true);
  engine.adapt(x);
  expect_error([&] { engine.save(folder.file("engine.pt"), x); }, "would not hold which sizes");
  engine.save_state(folder.file("state.pt"));
  other.load_state(folder.file("state.pt"));
  EXPECT_GT(other.drift().distance, 0);
  EXPECT_TRUE(torch::equal(other.adapt(x).prediction, engine.adapt(x).prediction));
}

TEST(ExportedNetwork, KeepsTiedWeightsTied) {
  ExportedNetwork network(program("various.pt2"), "second", OutputPath{"y"});
  std::vector<std::string> names;
  for (const auto& parameter : network.parameters()) names.push_back(parameter.name);
  EXPECT_EQ(
      std::count(names.begin(), names.end(), "last.weight") + std::count(names.begin(), names.end(), "second.weight"),
      1);
}

TEST(ExportedNetwork, TakesOneOfALayersOutputs) {
  const auto load = [](const std::string& name, const std::string& layer, const OutputPath& layer_output) {
    ExportedNetwork network(program(name), layer, std::nullopt, std::nullopt, layer_output);
  };
  load("branching.pt2", "branches", {"pair", 0});
  load("branching.pt2", "branches", {"pair", -1});
  expect_error([&] { load("branching.pt2", "branches", {0}); }, "the layer returns no 0");
  expect_error(
      [&] { load("branching.pt2", "first", {0}); },
      "does not tell what the layer 'first' returns; export the model with preserve_module_call_signature=('first',)");
  expect_error([&] { load("branching.pt2", "branches", {"pair"}); }, "the output pair of the layer is no tensor");
  expect_error([&] { load("branching.pt2", "branches", {"pair", 2}); }, "the layer returns no pair.2");
  expect_error([&] { load("branching.pt2", "branches", {"count"}); }, "the output count of the layer is no tensor");
  expect_error([&] { load("branching.pt2", "branches", {"given"}); }, "does not compute its output given");
  expect_error([&] { load("branching.pt2", "branches", {"twice", 0}); }, "returns one tensor in several places");
  expect_error([&] { load("twice.pt2", "layer", {}); }, "the layer 'layer' is called several times");
  expect_error([&] { load("fixed.pt2", "", {0}); }, "for the whole model, give output instead");
}

TEST(ExportedNetwork, SaysWhatIsWrong) {
  const TemporaryFolder folder;
  const auto load = [](const std::string& name, const std::string& layer) {
    ExportedNetwork network(program(name), layer);
  };
  EXPECT_THROW(ExportedNetwork(folder.file("none.pt2"), "0"), c10::Error);
  expect_error([&] { load("fixed.pt2", "9"); }, "has no layer '9' that computes; did you mean");
  expect_error([&] { load("twice.pt2", "layer"); }, "several tensors of the layer 'layer' are used behind it");
  for (const char* const name : {"layer", "other"}) {
    expect_error(
        [&] { load("renamed.pt2", name); }, "of the exported program may be one layer of the model, called twice");
  }
  expect_error([&] { load("without_gradients.pt2", "layer"); }, "wrap_with_set_grad_enabled");
  expect_error([&] { load("various.pt2", "second"); }, "it returns 3 tensors; say by output");
  expect_error([&] { ExportedNetwork(program("various.pt2"), "second", OutputPath{"z"}); }, "the model returns no z");
  std::string content = content_of(program("fixed.pt2"));
  content[content.size() / 2] ^= 1;
  std::ofstream(folder.file("damaged.pt2"), std::ios::binary) << content;
  expect_error([&] { ExportedNetwork(folder.file("damaged.pt2"), "0"); }, "cannot be read as an exported");
  std::ofstream(folder.file("short.pt2"), std::ios::binary) << content.substr(0, content.size() / 3);
  expect_error([&] { ExportedNetwork(folder.file("short.pt2"), "0"); }, "cannot be read as an exported");
}

}  // namespace
}  // namespace it3::test
