#include <algorithm>
#include <map>
#include <regex>
#include <set>
#include <utility>

#include <c10/util/Exception.h>

#include <it3/backend/exported_graph.h>

#include "exported/exported_structure.h"
#include "support/nearest_name.h"

namespace it3 {
namespace {

constexpr const char* behind_layer = "it3_features";

bool is_in(const ExportedOperation& operation, const std::string& layer) {
  return std::find(operation.modules.begin(), operation.modules.end(), layer) != operation.modules.end();
}

bool reads(const ExportedArgument& argument, const std::string& name) {
  if (const auto* const value = std::get_if<ExportedArgument::Value>(&argument.is)) return value->name == name;
  const auto* const list = std::get_if<std::vector<ExportedArgument>>(&argument.is);
  return list != nullptr &&
         std::any_of(list->begin(), list->end(), [&](const auto& each) { return reads(each, name); });
}

void collect(const ExportedArgument& argument, std::set<std::string>& names) {
  if (const auto* const value = std::get_if<ExportedArgument::Value>(&argument.is)) {
    names.insert(value->name);
  } else if (const auto* const list = std::get_if<std::vector<ExportedArgument>>(&argument.is)) {
    for (const ExportedArgument& each : *list) collect(each, names);
  }
}

void rename(ExportedArgument& argument, const std::string& from, const std::string& to) {
  if (auto* const value = std::get_if<ExportedArgument::Value>(&argument.is)) {
    if (value->name == from) value->name = to;
  } else if (auto* const list = std::get_if<std::vector<ExportedArgument>>(&argument.is)) {
    for (ExportedArgument& each : *list) rename(each, from, to);
  }
}

bool is_read_outside(const ExportedGraph& graph, const std::string& name, const std::string& layer) {
  return name == graph.output ||
         std::any_of(graph.operations.begin(), graph.operations.end(), [&](const ExportedOperation& operation) {
           const auto& all = operation.arguments;
           return !is_in(operation, layer) &&
                  std::any_of(all.begin(), all.end(), [&](const auto& each) { return reads(each.second, name); });
         });
}

struct Leaving {
  std::size_t place;  // of the operation that gives it
  std::string name;
};

Leaving what_leaves(const ExportedGraph& graph, const std::string& layer) {
  std::vector<Leaving> leaving;
  for (std::size_t i = 0; i < graph.operations.size(); ++i) {
    if (!is_in(graph.operations[i], layer)) continue;
    for (const std::string& name : graph.operations[i].results) {
      if (!name.empty() && is_read_outside(graph, name, layer)) leaving.push_back({i, name});
    }
  }
  TORCH_CHECK_VALUE(
      !leaving.empty(), "nothing that the layer '", layer, "' computes is used behind it; name another layer");
  // Of an operation with several results, such as an LSTM, the first is the layer's output.
  const bool is_one = leaving.front().place == leaving.back().place &&
                      leaving.front().name == graph.operations[leaving.front().place].results.front();
  std::vector<std::string> names(leaving.size());
  std::transform(leaving.begin(), leaving.end(), names.begin(), [](const Leaving& each) { return each.name; });
  TORCH_CHECK_VALUE(
      is_one, "several tensors of the layer '", layer, "' are used behind it: ", detail::join(names),
      ", as it is called several times or returns several tensors; name a layer that is called once and returns one");
  return std::move(leaving.front());
}

/// What leaves a layer where its program tells what it returned.
Leaving what_leaves_at(const ExportedGraph& graph, const std::string& layer, const OutputPath& layer_output) {
  const auto call =
      std::find_if(graph.calls.begin(), graph.calls.end(), [&](const auto& each) { return each.layer == layer; });
  TORCH_CHECK_VALUE(
      call != graph.calls.end(), "layer_output is given, but the exported program does not tell what the layer '",
      layer, "' returns; export the model with preserve_module_call_signature=('", layer, "',)");
  const std::string name = detail::value_at(call->structure, call->returned, layer_output, "the layer");
  const auto is_further = [&](const ExportedCall& each) { return each.layer.starts_with(layer + "@"); };
  TORCH_CHECK_VALUE(
      std::none_of(graph.calls.begin(), graph.calls.end(), is_further), "the layer '", layer,
      "' is called several times; name a layer that is called once");
  TORCH_CHECK_VALUE(
      std::count(call->returned.begin(), call->returned.end(), name) == 1, "the layer '", layer,
      "' returns one tensor in several places, of which layer_output cannot choose one; name another layer");
  for (std::size_t i = 0; i < graph.operations.size(); ++i) {
    const auto& results = graph.operations[i].results;
    if (is_in(graph.operations[i], layer) && std::find(results.begin(), results.end(), name) != results.end()) {
      return {i, name};
    }
  }
  TORCH_CHECK_VALUE(
      false, "the layer '", layer, "' does not compute its output ", to_text(layer_output),
      ", which is an input of it; name another layer, or another output");
}

/// The last operation of the layer before its output is read: until then, the layer may write to it through a view.
std::size_t end_of_layer(const ExportedGraph& graph, const std::string& layer, const Leaving& output) {
  std::size_t end = output.place;
  for (std::size_t i = output.place + 1; i < graph.operations.size(); ++i) {
    const auto& arguments = graph.operations[i].arguments;
    if (is_in(graph.operations[i], layer)) {
      end = i;
    } else if (std::any_of(arguments.begin(), arguments.end(), [&](const auto& each) {
                 return reads(each.second, output.name);
               })) {
      break;
    }
  }
  return end;
}

bool encloses(const std::string& outer, const std::string& inner) {
  return outer.empty() || inner.starts_with(outer + ".");
}

/// The modules of a program, with where the parameters, buffers and constants lie that their operations read.
std::vector<ExportedPart> parts_of(const ExportedGraph& graph) {
  std::map<std::string, const void*> places;
  for (const ExportedTensor& each : graph.tensors) {
    if (each.tensor.numel() > 0) places[each.value] = each.tensor.const_data_ptr();
  }
  std::map<std::string, std::set<const void*>> read;
  for (const ExportedOperation& operation : graph.operations) {
    std::set<std::string> names;
    for (const auto& [parameter, argument] : operation.arguments) collect(argument, names);
    for (const std::string& name : names) {
      const auto place = places.find(name);
      if (place == places.end()) continue;
      for (const std::string& module : operation.modules) read[module].insert(place->second);
    }
  }
  std::vector<ExportedPart> parts;
  parts.reserve(graph.layers.size());
  for (const auto& [name, class_name] : graph.layers) parts.push_back({name, class_name, read[name]});
  return parts;
}

/// Without what torch puts behind the names of modules that are called again.
std::string name_of_first_call(const std::string& name) {
  static const std::regex again("@[0-9]+(?=\\.|$)");
  return std::regex_replace(name, again, "");
}

void check_name(const ExportedGraph& graph, const std::string& layer) {
  std::vector<std::string> names;
  for (const auto& [name, class_name] : graph.layers) {
    if (!name.empty()) names.push_back(name);
  }
  TORCH_CHECK_VALUE(
      !names.empty(),
      "the exported program does not record which modules its operations belong to, so that no layer can be found");
  TORCH_CHECK_VALUE(
      std::find(names.begin(), names.end(), layer) != names.end(), "the exported program has no layer '", layer,
      "' that computes; did you mean '", detail::nearest_name(layer, names), "'? Its layers are ", detail::join(names));
}

}  // namespace

void check_is_one(const std::string& layer, const std::vector<ExportedPart>& parts) {
  const auto own =
      std::find_if(parts.begin(), parts.end(), [&](const ExportedPart& part) { return part.name == layer; });
  if (own == parts.end()) return;
  const std::string first_call = name_of_first_call(layer);
  for (const ExportedPart& other : parts) {
    if (encloses(other.name, layer) || encloses(layer, other.name) || other.name == layer) continue;
    const bool is_alike = !own->memory.empty() && other.class_name == own->class_name && other.memory == own->memory;
    TORCH_CHECK_VALUE(
        !is_alike && name_of_first_call(other.name) != first_call, "'", layer, "' and '", other.name,
        "' of the exported program may be one layer of the model, called twice: they are of one class and have the "
        "same parameters. It would be injected into at one of these calls only. Name another layer, or export a model "
        "in which each has parameters of its own");
  }
}

void mark_layer(ExportedGraph& graph, const std::string& layer, const std::optional<OutputPath>& layer_output) {
  if (layer.empty()) {
    TORCH_CHECK_VALUE(
        !layer_output, "layer_output chooses a tensor of a named layer; for the whole model, give output instead");
    return;
  }
  check_name(graph, layer);
  check_is_one(layer, parts_of(graph));
  Leaving features = layer_output ? what_leaves_at(graph, layer, *layer_output) : what_leaves(graph, layer);
  features.place = end_of_layer(graph, layer, features);
  for (std::size_t i = features.place + 1; i < graph.operations.size(); ++i) {
    if (is_in(graph.operations[i], layer)) continue;
    for (auto& [parameter, argument] : graph.operations[i].arguments) rename(argument, features.name, behind_layer);
  }
  if (graph.output == features.name) graph.output = behind_layer;
  ExportedOperation mark;
  mark.target = features_target;
  mark.arguments.resize(1);  // one by one, as GCC 12 takes a temporary variant for uninitialized
  mark.arguments[0].first = "x";
  mark.arguments[0].second.is = ExportedArgument::Value{features.name};
  mark.results = {behind_layer};
  graph.operations.insert(graph.operations.begin() + static_cast<std::ptrdiff_t>(features.place) + 1, std::move(mark));
}

}  // namespace it3
