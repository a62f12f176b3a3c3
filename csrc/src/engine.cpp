#include <it3/engine.h>

namespace it3 {

Engine::Engine(
    std::shared_ptr<Network> network,
    Options options_,
    Embedder embedder,
    Combine combine,
    std::optional<Distance> distance)
    : options(std::move(options_)),
      network_(std::move(network)),
      embedder_(std::move(embedder)),
      method_{
          [module = embedder_](const at::Tensor& prediction, const at::Tensor& features) mutable {
            return module->forward(prediction, features);
          },
          std::move(combine), distance ? std::move(*distance) : distance_by_name("mse")} {
  if (!method_.combine) {
    method_.combine = [](const at::Tensor& features, const at::Tensor& embedding) {
      return broadcast_add(features, embedding);
    };
  }
}

Losses Engine::losses(const Inputs& inputs, const std::optional<at::Tensor>& target) {
  return training_losses(*network_, method_, inputs, target);
}

Adaptation Engine::adapt(const Inputs& inputs, bool with_second) {
  const bool was_built = embedder_->is_built();
  try {
    return it3::adapt(*network_, method_, options, inputs, options.copy_model ? nullptr : &online_, with_second);
  } catch (...) {
    if (!was_built) embedder_->clear();
    throw;
  }
}

at::Tensor Engine::uncertainty(const Inputs& inputs) { return it3::uncertainty(*network_, method_, inputs); }

void Engine::reset() { online_.reset(*network_); }

}  // namespace it3
