#pragma once

#include <memory>

#include <it3/backend/exported_graph.h>

#include "torchscript/size_conditions.h"

namespace it3::detail {

/// The sizes of inputs that a program is for. Raises c10::ValueError for conditions that cannot be read.
std::shared_ptr<const SizeConditions> size_conditions_of(const ExportedGraph& graph);

}  // namespace it3::detail
