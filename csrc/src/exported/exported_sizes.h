#pragma once

#include <memory>
#include <string>

#include <it3/backend/exported_graph.h>

#include "torchscript/size_conditions.h"

namespace it3::detail {

/// The sizes of inputs that a program is for. Raises c10::ValueError for conditions that cannot be read.
std::shared_ptr<const SizeConditions> size_conditions_of(const ExportedGraph& graph);

/// Whether a size, as torch.export writes it, depends on values, as of x[x > 0].
bool depends_on_values(const std::string& size);

}  // namespace it3::detail
