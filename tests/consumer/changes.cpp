// Says whether a saved engine's programs are used after each of some changes: changes ENGINE INPUTS.
#include <fstream>
#include <functional>
#include <iostream>
#include <iterator>
#include <string>

#include <torch/serialize.h>

#include <it3/it3.h>

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  std::ifstream file(argv[2], std::ios::binary);
  const std::vector<char> bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  const at::Tensor inputs = torch::pickle_load(bytes).toTensor();
  const auto say = [&](const std::string& name, const std::function<void(it3::Engine&)>& change) {
    it3::Engine engine = it3::Engine::load(argv[1]);
    engine.adapt(inputs);
    change(engine);
    engine.adapt(inputs);
    const bool is_compiled = engine.explain(inputs).is_compiled;
    std::cout << name << ": " << (is_compiled ? "compiled" : "passes") << '\n';
  };
  say("as loaded", [](it3::Engine&) {});
  say("after training", [](it3::Engine& engine) {
    const at::NoGradGuard no_grad;
    for (const at::Tensor& parameter : engine.parameters()) parameter.mul_(0.9);
  });
  say("neutral", [](it3::Engine& engine) { engine.set_neutral(torch::tensor(0.5)); });
  say("feedback", [](it3::Engine& engine) { engine.feedback = it3::Feedback::probabilities; });
  say("prediction layout", [](it3::Engine& engine) { engine.set_prediction_layout({.channel_dim = -1}); });
  say("in_dims", [](it3::Engine& engine) { engine.in_dims = it3::InDims(0); });
  say("parameters", [](it3::Engine& engine) { engine.options.parameters = {"first"}; });
  say("num_steps", [](it3::Engine& engine) { engine.options.num_steps = 7; });
}
