#include <it3/backend/compiled_program.h>

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <utility>

#include <ATen/ATen.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <c10/util/ScopeExit.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include <it3/backend/exported_graph.h>

#include "exported/exported_sizes.h"

namespace it3 {
namespace {

using torch::inductor::AOTIModelPackageLoader;

/// Inductor's own measure; also of the memory that torch allocates.
constexpr std::uintptr_t alignment = 64;

std::mutex& one_at_a_time() {
  static std::mutex mutex;
  return mutex;
}

std::unique_ptr<AOTIModelPackageLoader> load(const std::string& package, c10::DeviceIndex device) {
  const PackageLoading loading;
  // Single-threaded: it then neither waits for its device nor records events, so that a CUDA graph can hold it.
  return std::make_unique<AOTIModelPackageLoader>(
      package, "model", /*run_single_threaded=*/true, /*num_runners=*/1, device);
}

std::shared_ptr<const detail::SizeConditions> sizes_of(
    const std::vector<CompiledProgram::Argument>& arguments, std::vector<std::string> conditions) {
  ExportedGraph signature;
  for (const auto& argument : arguments) {
    signature.inputs.push_back({c10::str("args_", signature.inputs.size()), argument.sizes});
  }
  signature.conditions = std::move(conditions);
  return detail::size_conditions_of(signature);
}

}  // namespace

PackageLoading::PackageLoading() : lock_(one_at_a_time()) {}

struct CompiledProgram::Loaded {
  std::string package;
  std::vector<Argument> arguments;
  std::shared_ptr<const detail::SizeConditions> sizes;
  c10::DeviceIndex device = -1;  // of CUDA
  std::mutex mutex;              // of what follows: each can be run by one thread at a time
  std::vector<std::unique_ptr<AOTIModelPackageLoader>> idle;
  std::condition_variable is_idle;

  /// One for a further thread or, where the file is gone, the next that is idle.
  std::unique_ptr<AOTIModelPackageLoader> another() {
    try {
      return load(package, device);
    } catch (const std::exception&) {
      std::unique_lock lock(mutex);
      is_idle.wait(lock, [&] { return !idle.empty(); });
      auto next = std::move(idle.back());
      idle.pop_back();
      return next;
    }
  }
};

CompiledProgram::CompiledProgram(
    const std::string& package, std::vector<Argument> arguments, std::vector<std::string> conditions)
    : loaded_(std::make_unique<Loaded>()) {
  loaded_->package = package;
  loaded_->sizes = sizes_of(arguments, std::move(conditions));
  loaded_->arguments = std::move(arguments);
  for (const Argument& argument : loaded_->arguments) {
    if (argument.device.is_cuda()) loaded_->device = argument.device.index();
  }
  loaded_->idle.push_back(load(package, loaded_->device));
}

CompiledProgram::~CompiledProgram() = default;
CompiledProgram::CompiledProgram(CompiledProgram&&) noexcept = default;
CompiledProgram& CompiledProgram::operator=(CompiledProgram&&) noexcept = default;

std::string CompiledProgram::why_not(const std::vector<at::Tensor>& values) const {
  torch::jit::Stack stack;
  stack.reserve(loaded_->arguments.size());
  for (const Argument& argument : loaded_->arguments) {
    const at::Tensor& value = values.at(argument.value);
    const bool fits =
        value.scalar_type() == argument.dtype && value.device() == argument.device && value.layout() == at::kStrided &&
        value.dim() == static_cast<std::int64_t>(argument.sizes.size()) && !value.is_conj() && !value.is_neg();
    if (!fits) {
      return c10::str(
          "a tensor is ", value.dim(), "-dimensional, ", value.scalar_type(), " on ", value.device(), ", not ",
          argument.sizes.size(), "-dimensional, ", argument.dtype, " on ", argument.device);
    }
    stack.emplace_back(value);
  }
  return loaded_->sizes->hold_for(stack) ? "" : "the sizes are not among those that were compiled for";
}

std::vector<at::Tensor> CompiledProgram::operator()(const std::vector<at::Tensor>& values) const {
  const at::NoGradGuard no_grad;
  const at::AutoDispatchBelowADInplaceOrView below_autograd;
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  std::vector<at::Tensor> taken;
  taken.reserve(loaded_->arguments.size());
  for (const Argument& argument : loaded_->arguments) taken.push_back(values[argument.value]);
  std::unique_ptr<AOTIModelPackageLoader> program;
  {
    const std::scoped_lock lock(loaded_->mutex);
    if (!loaded_->idle.empty()) {
      program = std::move(loaded_->idle.back());
      loaded_->idle.pop_back();
    }
  }
  if (program == nullptr) program = loaded_->another();
  const auto goes_back = c10::make_scope_exit([&] {
    const std::scoped_lock lock(loaded_->mutex);
    loaded_->idle.push_back(std::move(program));
    loaded_->is_idle.notify_one();
  });
  return program->boxed_run(std::move(taken));
}

at::Tensor CompiledProgram::as_argument(const at::Tensor& value) {
  const at::Tensor contiguous = value.detach().contiguous();
  const bool is_aligned = reinterpret_cast<std::uintptr_t>(contiguous.const_data_ptr()) % alignment == 0;
  return is_aligned ? contiguous : contiguous.clone();
}

}  // namespace it3
