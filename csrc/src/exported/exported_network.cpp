#include <it3/exported_network.h>

#include <utility>

#include "exported/exported_module.h"
#include "exported/exported_sizes.h"

namespace it3 {
namespace {

ExportedGraph marked(ExportedGraph graph, const std::string& layer, const std::optional<OutputPath>& layer_output) {
  mark_layer(graph, layer, layer_output);
  return graph;
}

}  // namespace

ExportedNetwork::ExportedNetwork(
    const std::string& path,
    const std::string& layer,
    const std::optional<OutputPath>& output,
    std::optional<c10::Device> device,
    const std::optional<OutputPath>& layer_output)
    : ExportedNetwork(marked(read_exported_program(path, output, device), layer, layer_output), layer) {}

ExportedNetwork::ExportedNetwork(const ExportedGraph& graph, const std::string& layer)
    : ScriptNetwork(detail::script_module_of(graph, layer), layer) {
  limit_sizes(detail::size_conditions_of(graph));
}

}  // namespace it3
