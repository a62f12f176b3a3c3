#include <it3/engine.h>

#include <c10/util/Exception.h>

#include <it3/saved_engine.h>
#include <it3/script_network.h>

namespace it3 {

Engine::Engine(
    std::shared_ptr<Network> network,
    Options options_,
    Embedder embedder,
    Combine combine,
    std::optional<Distance> distance)
    : options(std::move(options_)),
      network_(std::move(network)),
      has_default_combine_(combine == nullptr),
      embedder_(std::move(embedder)),
      method_{
          [module = embedder_](const at::Tensor& prediction, const at::Tensor& features) mutable {
            return module->forward(prediction, features);
          },
          std::move(combine), distance ? std::move(*distance) : distance_by_name("mse")} {
  if (!method_.combine) {
    method_.combine = [layout = embedder_->features_layout()](const at::Tensor& features, const at::Tensor& embedding) {
      return broadcast_add(features, embedding, layout);
    };
  }
}

Losses Engine::losses(const Inputs& inputs, const std::optional<at::Tensor>& target) {
  return training_losses(*network_, method_, inputs, target, embedder_->prediction_layout());
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

void Engine::save(const std::string& path) const {
  const auto script = std::dynamic_pointer_cast<ScriptNetwork>(network_);
  TORCH_CHECK_VALUE(
      script != nullptr, "only an engine around a ScriptNetwork can be saved; export the model to TorchScript");
  TORCH_CHECK_VALUE(embedder_->is_built(), "the embedder has no shape yet; call the engine once before it is saved");
  TORCH_CHECK_VALUE(
      has_default_combine_ && !method_.distance.name.empty(),
      "functions of your own cannot be saved; use the default combine and a distance by its name");
  save_engine(
      {script->module(), script->layer(), embedder_->weights(), embedder_->prediction_layout(),
       embedder_->features_layout(), method_.distance.name, options},
      path);
}

Engine Engine::load(const std::string& path, std::optional<c10::Device> device) {
  SavedEngine saved = load_engine(path, device);
  Embedder embedder(saved.prediction_layout, saved.features_layout);
  embedder->set_weights(saved.embedder);
  return Engine(
      std::make_shared<ScriptNetwork>(saved.network, saved.layer), std::move(saved.options), embedder,
      /*combine=*/nullptr, distance_by_name(saved.distance));
}

}  // namespace it3
