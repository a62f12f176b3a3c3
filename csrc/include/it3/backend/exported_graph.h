#pragma once

#include <optional>
#include <set>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>

#include <c10/core/Device.h>

#include <it3/backend/export.h>
#include <it3/backend/output_path.h>

namespace it3 {

/// What an operation of an exported program is called with: a value by its name, a constant, or a list of these.
struct ExportedArgument {
  struct Value {
    std::string name;
  };
  std::variant<Value, c10::IValue, std::vector<ExportedArgument>> is;
};

/// One call in an exported program.
struct ExportedOperation {
  /// As torch.export's files spell it: "torch.ops.aten.conv2d.default", "_operator.mul".
  std::string target;
  /// With the names of their parameters; empty for those that go by position, which come first.
  std::vector<std::pair<std::string, ExportedArgument>> arguments;
  /// The names of what it gives; empty for what is not used.
  std::vector<std::string> results;
  /// Whether the results are the elements of one list.
  bool gives_list = false;
  /// The dotted names of the modules that it is called in.
  std::vector<std::string> modules;
};

/// A parameter, buffer or constant of an exported program.
struct ExportedTensor {
  std::string value;  // in the graph
  std::string name;   // dotted, in the module
  at::Tensor tensor;
  bool is_parameter = false;
};

/// A tensor that an exported program is called with. Sizes are numbers, or expressions in the symbols of all inputs.
struct ExportedInput {
  std::string value;
  std::vector<std::string> sizes;
};

/// What a module in an exported program returned, of those whose calls the program was told to keep
/// (preserve_module_call_signature).
struct ExportedCall {
  /// The dotted name of the module; of a second call, with "@1" behind it.
  std::string layer;
  /// The values' names in the graph, empty for what is no tensor.
  std::vector<std::string> returned;
  /// How they are arranged, as torch.utils._pytree.treespec_dumps() writes it.
  std::string structure;
};

/// What torch.export.export() gives: straight-line code of torch's operations.
struct ExportedGraph {
  std::vector<ExportedInput> inputs;
  std::vector<ExportedTensor> tensors;
  std::vector<ExportedOperation> operations;
  /// The prediction.
  std::string output;
  /// The classes of its modules by their dotted names: "torch.nn.modules.conv.Conv2d".
  std::vector<std::pair<std::string, std::string>> layers;
  std::vector<ExportedCall> calls;
  /// Conditions on inputs' sizes, in Python: "L['x'].size()[0] != 1"; and of symbols: "s77 >= 2".
  std::vector<std::string> conditions;
};

/// The target of the operation that stands behind the output of the layer that a program is to be cut at.
constexpr const char* features_target = "torch.ops.it3.features.default";

/// A module of an exported program, and where the parameters and buffers lie that it computes with.
struct ExportedPart {
  std::string name;
  std::string class_name;
  std::set<const void*> memory;
};

/// Checks that no other module of a program can be the same module of the model as the layer: one that has two names,
/// or that is called again in another way. In the program, each such call stands by itself. For modules without
/// parameters, only a second call can be recognized.
///
/// @throws c10::ValueError  if one can
IT3_API void check_is_one(const std::string& layer, const std::vector<ExportedPart>& parts);

/// Marks the layer of this name: puts a features_target behind its output. Does nothing for the whole model, "".
///
/// Two things cannot be recognized in a program: that a layer without parameters has two names, and that a layer hands
/// on a tensor in another way than by returning it, such as in an attribute. The mark is then put behind one of these.
///
/// @param layer_output  which tensor of the layer's output is injected into; ExportedGraph::calls has to have the
///     layer. Unset: the only tensor of the layer that is used behind it
/// @throws c10::ValueError  if no operation belongs to such a layer; where check_is_one() does; if `layer_output` is
///     unset and not exactly one tensor of the layer is used behind it; and if `layer_output` does not name one tensor
///     that the layer computes in its only call
///
/// @code{.cpp}
/// it3::ExportedGraph program = it3::read_exported_program("model.pt2", std::nullopt, std::nullopt);
/// it3::mark_layer(program, "encoder");
/// it3::ExportedNetwork network(program, "encoder");
/// at::Tensor y0 = network.predict(it3::Inputs(x)).prediction;
/// @endcode
IT3_API void mark_layer(
    ExportedGraph& graph, const std::string& layer, const std::optional<OutputPath>& layer_output = std::nullopt);

/// Reads a file that torch.export.save() has written; see ExportedNetwork for the arguments and the errors.
IT3_API ExportedGraph read_exported_program(
    const std::string& path, const std::optional<OutputPath>& output, std::optional<c10::Device> device);

}  // namespace it3
