#pragma once

#include <memory>
#include <vector>

#include <torch/nn/module.h>

#include <it3/backend/layout.h>

namespace it3::detail {

/// The kind of a torch::nn layer.
LayerKind kind_of(const torch::nn::Module& module);

/// The layers that the output of a chain of modules, one behind the other, comes from.
Origin origin_of_chain(const std::vector<std::shared_ptr<torch::nn::Module>>& chain);

}  // namespace it3::detail
