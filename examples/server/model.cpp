#include "model.h"

#include <algorithm>
#include <new>
#include <regex>
#include <sstream>
#include <utility>

#include <ATen/ATen.h>
#include <c10/util/ScopeExit.h>
#include <it3/engine.h>
#include <it3/error_text.h>

namespace serving {
namespace {

/// Reads what a file notes about a tensor: "Float [6, 13]", or of a keyword "mask: Long [6, 13]". Nothing for others.
std::optional<TensorInfo> info_from(const std::string& note) {
  static const std::regex form(R"((?:(.+): )?(Float|Double|Half|BFloat16|Long) \[([0-9, ]*)\])");
  std::smatch found;
  if (!std::regex_match(note, found, form)) return std::nullopt;
  TensorInfo info{found[1], c10::kFloat, {}};
  const std::string type = found[2];
  if (type == "Long") info.dtype = c10::kLong;
  if (type == "Double") info.dtype = c10::kDouble;
  if (type == "Half") info.dtype = c10::kHalf;
  if (type == "BFloat16") info.dtype = c10::kBFloat16;
  std::istringstream sizes(found[3]);
  for (std::int64_t size = 0; sizes >> size; sizes.ignore()) info.shape.push_back(size);
  return info;
}

/// The names of the arguments of a network's forward(), where it has such.
std::vector<std::string> argument_names(const it3::SavedModule& network) {
  std::vector<std::string> names;
  const auto* const module = std::get_if<torch::jit::Module>(&network);
  if (module == nullptr) return names;
  const auto& arguments = module->get_method("forward").function().getSchema().arguments();
  for (std::size_t i = 1; i < arguments.size(); ++i) names.push_back(arguments[i].name());  // the first is the module
  return names;
}

std::optional<c10::Device> device_named(const std::string& name) {
  return name.empty() ? std::nullopt : std::optional(c10::Device(name));
}

/// Half precision as the protocol can say it.
at::Tensor to_send(const at::Tensor& tensor) {
  const bool is_sendable = tensor.scalar_type() == at::kDouble || tensor.scalar_type() == at::kLong;
  const at::Tensor sent = tensor.to(at::kCPU, is_sendable ? tensor.scalar_type() : at::kFloat).contiguous();
  TORCH_CHECK(
      sent.isfinite().all().item<bool>(), "the network's prediction is not finite, so that there is no answer to send");
  return sent;
}

}  // namespace

struct Model::Engine {
  it3::Engine engine;
  c10::Device device;
};

Model::Model(
    const std::string& path,
    const std::string& device,
    const std::vector<std::pair<std::string, it3::OptionValue>>& options) {
  it3::SavedEngine saved = it3::load_engine(path, device_named(device));
  saved.options.override_with(options);
  TORCH_CHECK_VALUE(
      saved.options.copy_model,
      "this engine keeps what it learns from call to call, so that answers would depend on other clients; save it with "
      "copy_model=True, or give --set copy_model=true");
  saved.options.validate();
  const std::vector<std::string> names = argument_names(saved.network);
  for (const std::string& note : saved.notes.inputs) {
    auto info = info_from(note);
    TORCH_CHECK_VALUE(
        info && !info->shape.empty(), "the engine has the input \"", note,
        "\"; served are engines whose inputs are tensors of floating-point numbers or int64, with samples");
    are_keywords_.push_back(!info->name.empty());
    if (info->name.empty()) {
      const std::size_t place = inputs_.size();
      info->name = place < names.size() ? names[place] : c10::str("input_", place);
    }
    inputs_.push_back(std::move(*info));
  }
  TORCH_CHECK_VALUE(!inputs_.empty(), "the file ", path, " does not tell what inputs the engine has");
  prediction_ = info_from(saved.notes.prediction);
  const c10::Device place = saved.device();
  engine_ = std::make_unique<Engine>(Engine{it3::Engine(std::move(saved)), place});
}

Model::~Model() = default;

std::vector<TensorInfo> Model::outputs() const {
  std::vector<TensorInfo> outputs;
  if (prediction_) {
    outputs.push_back(*prediction_);
    outputs.back().name = prediction_name;
  }
  outputs.push_back({uncertainty_name, prediction_ ? prediction_->dtype : c10::kFloat, {1}});
  return outputs;
}

std::string Model::why_not_together() const {
  const it3::Engine& engine = engine_->engine;
  if (!engine.options.per_sample) {
    return "samples of one call adapt together, so that answers would depend on other clients; give --set "
           "per_sample=true";
  }
  const bool are_first = engine.prediction_layout().batch_dim == 0 && !engine.in_dims;
  return are_first ? "" : "samples have to lie along the first dimension of all tensors";
}

Model::Result Model::adapt(const std::vector<at::Tensor>& inputs, bool with_uncertainty) {
  it3::Inputs arguments;
  bool is_as_saved = true;
  std::vector<std::string> given;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const TensorInfo& info = inputs_[i];
    at::Tensor input = inputs[i].to(engine_->device, info.dtype);
    if (input.scalar_type() != inputs[i].scalar_type() && !input.isfinite().all().item<bool>()) {
      throw BadRequest(
          c10::str(
              "the data of the input \"", info.name, "\" has numbers that are too large for the network's dtype, ",
              info.dtype));
    }
    is_as_saved = is_as_saved && input.sizes().slice(1).equals(c10::IntArrayRef(info.shape).slice(1));
    given.push_back(info.name + ": " + to_text(info.dtype, input.sizes().vec()));
    if (are_keywords_[i]) {
      arguments.kwargs.emplace(info.name, std::move(input));
    } else {
      arguments.args.emplace_back(std::move(input));
    }
  }
  const auto refuse = [&](const std::exception& error) {
    std::vector<std::string> saved;
    for (const auto& info : inputs_) saved.push_back(info.name + ": " + to_text(info.dtype, info.shape));
    throw BadRequest(
        c10::str(
            it3::error_text(error), " (the inputs are ", c10::Join(", ", given), "; the engine was saved with ",
            c10::Join(", ", saved), ")"));
  };
  const auto call = [&] {
    try {
      return engine_->engine.adapt(arguments, /*with_details=*/with_uncertainty);
    } catch (const DeadlinePassed&) {
      throw;
    } catch (const std::bad_alloc&) {
      throw;
    } catch (const c10::OutOfMemoryError&) {
      throw;
    } catch (const c10::ValueError& error) {
      refuse(error);
      throw;
    } catch (const std::exception& error) {  // TorchScript's are of several kinds
      if (!is_as_saved) refuse(error);
      throw;
    }
  };
  const it3::Adaptation adapted = call();
  Answer answer{to_send(adapted.prediction), {}};
  if (with_uncertainty) answer.uncertainty = to_send(adapted.uncertainty());
  return {std::move(answer), adapted.steps()};
}

void Model::warm_up() {
  it3::Options& options = engine_->engine.options;
  const std::int64_t num_steps = std::exchange(options.num_steps, std::min<std::int64_t>(options.num_steps, 1));
  const auto restore = c10::make_scope_exit([&] { options.num_steps = num_steps; });
  std::vector<at::Tensor> zeros;
  for (const auto& info : inputs_) zeros.push_back(at::zeros(info.shape, info.dtype));
  for (int times = 0; times < 3; ++times) adapt(zeros, /*with_uncertainty=*/true);
}

}  // namespace serving
