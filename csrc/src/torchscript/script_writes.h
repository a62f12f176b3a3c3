#pragma once

#include <memory>
#include <vector>

#include <torch/csrc/jit/ir/alias_analysis.h>
#include <torch/csrc/jit/ir/ir.h>

namespace it3::detail {

/// Whether a node normalizes by its input's statistics and updates the running ones, which its schema does not tell.
bool updates_statistics(const torch::jit::Node* node);

/// What a graph writes to. torch's analysis takes all inputs of a graph for one another's aliases; here each has memory
/// of its own, and who runs the graph looks whether they really have. While it lives, the graph has a copy of each
/// input at its start.
class ScriptWrites {
 public:
  explicit ScriptWrites(std::shared_ptr<torch::jit::Graph> graph);
  ~ScriptWrites();
  ScriptWrites(const ScriptWrites&) = delete;
  ScriptWrites& operator=(const ScriptWrites&) = delete;

  /// Whether one of some nodes, or of those in their blocks, writes to a value that is none of the graph's inputs, or
  /// to what it holds.
  bool write(const std::vector<torch::jit::Node*>& nodes, torch::jit::Value* value) const;

  /// The same for one of the graph's inputs.
  bool write_input(const std::vector<torch::jit::Node*>& nodes, std::size_t input) const;

 private:
  std::shared_ptr<torch::jit::Graph> graph_;
  torch::jit::Value* anything_;          // stands for all that is in lists and the like
  std::vector<torch::jit::Value*> own_;  // the inputs' copies; the inputs themselves where they are no tensors
  std::unique_ptr<torch::jit::AliasDb> aliases_;
};

}  // namespace it3::detail
