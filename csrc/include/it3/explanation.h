#pragma once

#include <string>

#include <it3/backend/export.h>
#include <it3/backend/settle_layouts.h>

namespace it3 {

/// How an engine runs calls with inputs of some kind, and why; see Engine::explain(). The texts are for people to read:
/// programs should decide by the flags.
///
/// @code{.cpp}
/// it3::Explanation explanation = engine.explain(x);
/// std::cout << explanation.str() << '\n';  // a line for each answer
/// if (!explanation.is_cut) std::cout << "the whole model runs twice a step: " << explanation.why_whole << '\n';
/// assert(explanation.shapes.features.shape == (std::vector<std::int64_t>{8, 64}));
/// @endcode
struct IT3_API Explanation {
  /// The way the network runs, such as "cut at the layer, exported by torch.export" or "run whole, with a hook on the
  /// layer".
  std::string runs;
  /// Whether the part before the layer runs once for both passes.
  bool is_cut = false;
  /// Why the network is not cut, where it might have been; else empty.
  std::string why_whole;
  /// "evaluated by programs of AOTInductor", or why compiled programs are not used. Empty if the engine has none.
  std::string compiled;
  /// Whether compiled programs evaluate such calls.
  bool is_compiled = false;
  /// Why no CUDA graph is replayed. Empty if one is, from the second call of the same kind on.
  std::string why_no_cuda_graph;
  /// What is fed back: "softmax(y0)" or "y0".
  std::string fed_back;
  /// The shapes of prediction and features, and which of their dimensions are samples and channels.
  Shapes shapes;
  /// Why a training step computes the part before the layer in both passes. Empty if it does not, or if no training
  /// step has been taken yet.
  std::string why_not_shared;

  /// All of this as text, one line for each answer.
  std::string str() const;
};

}  // namespace it3
