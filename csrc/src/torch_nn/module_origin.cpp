#include "torch_nn/module_origin.h"

#include <optional>
#include <string>

#include <ATen/ATen.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/rnn.h>

namespace it3::detail {
namespace {

/// What a recurrent layer says of where its samples are. Attention in C++ has them in dimension 1.
std::optional<bool> batch_first(const torch::nn::Module& module) {
  if (const auto* lstm = module.as<torch::nn::LSTMImpl>()) return lstm->options.batch_first();
  if (const auto* gru = module.as<torch::nn::GRUImpl>()) return gru->options.batch_first();
  if (const auto* rnn = module.as<torch::nn::RNNImpl>()) return rnn->options.batch_first();
  if (module.name().find("Cell") != std::string::npos) return std::nullopt;
  return false;
}

}  // namespace

LayerKind kind_of(const torch::nn::Module& module) {
  const auto tensor = [&](const std::string& name) {
    const auto parameters = module.named_parameters(/*recurse=*/false);
    if (const auto* parameter = parameters.find(name)) return *parameter;
    const auto buffers = module.named_buffers(/*recurse=*/false);
    const auto* buffer = buffers.find(name);
    return buffer ? *buffer : at::Tensor();
  };
  return kind_of_layer(module.name(), tensor, batch_first(module));
}

namespace {

/// The kinds of modules in their order, what is in one before itself.
void append_kinds(const torch::nn::Module& module, std::vector<LayerKind>& kinds) {
  for (const auto& child : module.children()) append_kinds(*child, kinds);
  const LayerKind kind = kind_of(module);
  if (kind.channel_dim) kinds.push_back(kind);
}

/// The last module in a chain, in the Sequentials in it too, that does more than to work on each value; null if it is
/// not known.
std::shared_ptr<torch::nn::Module> last_of(const std::vector<std::shared_ptr<torch::nn::Module>>& chain) {
  for (auto module = chain.rbegin(); module != chain.rend(); ++module) {
    if (is_elementwise((*module)->name())) continue;
    return (*module)->as<torch::nn::SequentialImpl>() != nullptr ? last_of((*module)->children()) : *module;
  }
  return nullptr;
}

}  // namespace

Origin origin_of_chain(const std::vector<std::shared_ptr<torch::nn::Module>>& chain) {
  Origin origin;
  for (const auto& module : chain) append_kinds(*module, origin.inside);
  const auto last = last_of(chain);
  origin.is_direct = last != nullptr && kind_of(*last).channel_dim.has_value();
  return origin;
}

}  // namespace it3::detail
