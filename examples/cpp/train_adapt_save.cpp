// Trains a C++ model by IT3, adapts it to shifted inputs, saves it and reads it back.
#include <filesystem>
#include <iostream>

#include <torch/torch.h>

#include <it3/it3.h>

namespace {

/// A regression of 8 inputs: y = sin(x0) + x1 x2.
std::pair<at::Tensor, at::Tensor> sample(std::int64_t count) {
  const at::Tensor x = torch::randn({count, 8});
  return {x, (x.select(1, 0).sin() + x.select(1, 1) * x.select(1, 2)).unsqueeze(1)};
}

torch::nn::Sequential make_model() {
  return torch::nn::Sequential(
      {{"encoder", torch::nn::Linear(8, 64)},
       {"relu1", torch::nn::ReLU()},
       {"hidden", torch::nn::Linear(64, 64)},
       {"relu2", torch::nn::ReLU()},
       {"head", torch::nn::Linear(64, 1)}});
}

}  // namespace

int main(int argc, char** argv) {
  const std::filesystem::path folder = argc > 1 ? argv[1] : ".";
  torch::manual_seed(0);

  // Train with both terms of the loss: d(f(x), y) + d(f(x | y), y).
  torch::nn::Sequential model = make_model();
  it3::Engine engine(std::make_shared<it3::ModuleNetwork>(model, "encoder"), {.num_steps = 2, .lr = 1e-3});
  torch::optim::Adam optimizer(engine.parameters(), 3e-3);
  for (int step = 0; step <= 500; ++step) {
    const auto [x, y] = sample(256);
    const it3::Losses losses = engine.losses(x, y);
    const at::Tensor first = torch::mse_loss(losses.prediction, y);
    optimizer.zero_grad();
    (first + losses.loss_ttt).backward();
    optimizer.step();
    if (step % 250 == 0) {
      std::cout << "step " << step << ": d(f(x), y) = " << first.item<float>()
                << ", d(f(x | y), y) = " << losses.loss_ttt.item<float>() << '\n';
    }
  }

  // Adapt to inputs with other noise than those of the training. The model is afterwards as before.
  model->eval();
  const auto [clean, y] = sample(512);
  const at::Tensor shifted = clean + 0.5 * torch::randn_like(clean);
  const it3::Adaptation adapted = engine.adapt(shifted);
  const auto error = [&, &y = y](const at::Tensor& prediction) { return torch::mse_loss(prediction, y).item<float>(); };
  std::cout << "error on shifted inputs: " << error(model->forward(shifted).detach()) << ", adapted "
            << error(adapted.prediction) << "; |y1 - y0| clean " << engine.uncertainty(clean).mean().item<float>()
            << ", shifted " << engine.uncertainty(shifted).mean().item<float>() << '\n';

  // Save what was trained, and read it into a new engine.
  engine.save_state((folder / "state.pt").string());
  it3::Engine loaded(std::make_shared<it3::ModuleNetwork>(make_model(), "encoder"), engine.options);
  loaded.load_state((folder / "state.pt").string());
  const bool equal = torch::equal(loaded.adapt(shifted).prediction, adapted.prediction);
  std::cout << "the engine that was read back adapts " << (equal ? "equally" : "differently") << '\n';
  return equal ? 0 : 1;
}
