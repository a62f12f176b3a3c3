#pragma once

#include <string>

#include <torch/csrc/jit/api/module.h>

#include <it3/backend/exported_graph.h>

namespace it3::detail {

/// A TorchScript module of an exported program: its modules, with their classes, parameters and buffers, and a
/// forward() that is the program.
///
/// @param layer  the module whose output mark_layer() has marked: its own forward() gives what it is given; "" for the
///               whole model, and where nothing is marked
///
/// Raises c10::ValueError for operations that torch's interpreter cannot run.
torch::jit::Module script_module_of(const ExportedGraph& program, const std::string& layer);

}  // namespace it3::detail
