// Adapts a saved engine to inputs and writes the prediction: consumer ENGINE INPUTS PREDICTION, tensors as torch.save
// writes them.
#include <fstream>
#include <iostream>
#include <iterator>

#include <torch/serialize.h>

#include <it3/it3.h>

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  it3::Engine engine = it3::Engine::load(argv[1]);
  std::ifstream file(argv[2], std::ios::binary);
  const std::vector<char> bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  const at::Tensor inputs = torch::pickle_load(bytes).toTensor();
  const it3::Adaptation adapted = engine.adapt(inputs);
  const std::vector<char> result = torch::pickle_save(adapted.prediction);
  std::ofstream(argv[3], std::ios::binary).write(result.data(), static_cast<std::streamsize>(result.size()));
  std::cout << "loss " << adapted.loss().item<double>() << " after " << adapted.steps() << " steps\n"
            << engine.explain(inputs).str() << '\n';
}
