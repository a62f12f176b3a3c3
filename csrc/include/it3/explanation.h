#pragma once

#include <string>

#include <it3/backend/export.h>
#include <it3/backend/settle_layouts.h>

namespace it3 {

/// How an engine's calls with some inputs run, and why. Texts are for people.
struct IT3_API Explanation {
  /// "cut at the layer, exported by torch.export", "run whole, with a hook on the layer", or the like.
  std::string runs;
  /// Whether what comes before the layer runs once for both passes.
  bool is_cut = false;
  /// Why it is not cut, where it might have been; empty else.
  std::string why_whole;
  /// "evaluated by programs of AOTInductor", or why not; empty where nothing is compiled.
  std::string compiled;
  bool is_compiled = false;
  /// Why no CUDA graph is replayed; empty where one is, from the second like call on.
  std::string why_no_cuda_graph;
  /// What is fed back of y0: "softmax(y0)" or "y0".
  std::string fed_back;
  Shapes shapes;
  /// Why a training step computes what comes before the layer in both passes; empty where it does not, or where no step
  /// has found out.
  std::string why_not_shared;

  /// A line for each.
  std::string str() const;
};

}  // namespace it3
