#include <it3/explanation.h>

#include <ios>
#include <sstream>
#include <string_view>

#include <c10/util/Exception.h>
#include <c10/util/StringUtil.h>

#include <it3/backend/engine_core.h>
#include <it3/backend/selection.h>

#include "adapt/program_evaluation.h"

namespace it3 {
namespace {

/// Whether programs evaluate a call, which one that is or why none do.
void explain_programs(const EngineCall& call, const Options& options, Explanation& explanation) {
  if (call.setup.compiled.empty()) return;
  explanation.compiled = "not evaluated by a compiled program: ";
  std::vector<NamedParameter> adapted;
  if (options.num_steps > 0) {
    try {
      adapted = select_parameters(call.network.parameters(), options.parameters);
    } catch (const c10::ValueError& error) {
      explanation.compiled += error.what_without_backtrace();
      return;
    }
  }
  const Inputs inputs = inputs_of_programs(call.inputs, call.method, options, adapted);
  AdaptCall of_programs{.network = call.network, .method = call.method, .options = options, .inputs = inputs};
  if (options.per_sample && !adapted.empty()) of_programs.samples = inputs.args.at(0).toTensor().size(0);
  const Online::CallState state;
  std::vector<std::string> reasons;
  for (const auto& compiled : call.setup.compiled) {
    const auto verdict = compiled->verdict(of_programs, adapted);
    std::string why = verdict.why_not;
    if (why.empty()) why = detail::ProgramEvaluation(of_programs, *compiled, {}, state).why_not();
    if (why.empty()) {
      explanation.is_compiled = true;
      explanation.compiled =
          verdict.is_decided ? "evaluated by programs of AOTInductor" : "the first such call tries the programs";
      return;
    }
    reasons.push_back(std::move(why));
  }
  explanation.compiled += c10::Join("; ", reasons);
}

}  // namespace

Explanation explain(const EngineCall& call, const Options& options) {
  Explanation explanation;
  explanation.runs = call.network.how();
  explanation.is_cut = call.network.is_cut();
  explain_programs(call, options, explanation);
  explanation.why_no_cuda_graph = Graphs::why_not(call.network, call.method, options, call.inputs);
  explanation.fed_back = call.method.feeds_probabilities ? "softmax(y0)" : "y0";
  return explanation;
}

std::string Explanation::str() const {
  std::ostringstream text;
  const auto line = [&](std::string_view name, const std::string& value) {
    if (value.empty()) return;
    text << (text.tellp() > 0 ? "\n" : "") << std::left;
    text.width(13);
    text << name << value;
  };
  line("runs:", why_whole.empty() ? runs : runs + ": " + why_whole);
  line("compiled:", compiled);
  line(
      "CUDA graph:",
      why_no_cuda_graph.empty() ? "replayed from the second like call on" : "none, " + why_no_cuda_graph);
  line("fed back:", fed_back);
  line("features:", shapes.features.str());
  line("prediction:", shapes.prediction.str());
  if (!why_not_shared.empty()) {
    line("in training:", "what comes before the layer is computed in both passes: " + why_not_shared);
  }
  return text.str();
}

}  // namespace it3
