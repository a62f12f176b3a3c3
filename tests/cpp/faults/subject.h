#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <torch/torch.h>

#include <it3/it3.h>

#include "temporary_folder.h"

namespace it3::test {

/// The ways of running a network: TorchScript, and models of torch::nn that are cut and that run whole.
enum class Kind { script, sequential, whole };

inline constexpr Kind all_kinds[] = {Kind::script, Kind::sequential, Kind::whole};

std::string to_string(Kind kind);

/// The functions of an engine; default ones where null.
struct Functions {
  Embed embed = Embedder();
  Combine combine = nullptr;
  std::optional<Distance> distance = {};
  /// Called at the beginning of forward(), of a model that runs whole.
  std::function<void()> in_forward = nullptr;
};

/// A small network with batch normalization and dropout, and an engine around it. Some of its modules are in train
/// mode, a parameter is frozen, and another one has a gradient. Two that are made of the same arguments are alike.
struct Subject {
  explicit Subject(Kind kind, const Options& options = {}, const Functions& functions = {});

  Engine& engine() { return *engine_; }
  Kind kind() const { return kind_; }
  /// All modules' flags.
  void train(bool on) const;
  /// Parameters and buffers, by name, the embedder's too.
  std::vector<std::pair<std::string, at::Tensor>> tensors() const;
  std::vector<bool> flags() const;

  at::Tensor x, target;
  /// Inputs with a greater loss, where a call needs them.
  at::Tensor far;
  /// Where calls write files, and which is empty before them.
  TemporaryFolder folder;

 private:
  friend class Snapshot;
  Kind kind_;
  std::optional<torch::jit::Module> script_;
  std::shared_ptr<torch::nn::Module> module_;
  std::shared_ptr<Network> network_;
  std::unique_ptr<Engine> engine_;
};

/// What a call may change although it fails: nothing, if all are false.
struct MayChange {
  bool buffers = false, random_state = false, gradients = false, callbacks = false;
};

/// All that a call that fails must leave as it was.
class Snapshot {
 public:
  explicit Snapshot(const Subject& subject);

  /// What is other than it was; empty if all is the same, to the bit.
  std::string difference_to(const Snapshot& after, const MayChange& may_change = {}) const;

  /// Whether parameters and buffers have the same values.
  bool has_values_of(const Snapshot& other) const;

 private:
  struct Held {
    std::string name, values, gradient;
    const void* address;
    const void* memory;
    bool is_buffer, requires_grad, is_leaf;
  };

  std::vector<Held> tensors_;
  std::vector<std::pair<std::string, std::string>> facts_;  // of the modules, the engine and this thread
  std::string random_state_;
};

/// The shape and values of a tensor.
std::string bytes_of(const at::Tensor& tensor);

}  // namespace it3::test
