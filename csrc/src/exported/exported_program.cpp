#include "exported/exported_program.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <regex>
#include <string_view>
#include <utility>

#include <ATen/ATen.h>
#include <c10/util/Exception.h>
#include <nlohmann/json.hpp>

#include <it3/error_text.h>

#include "exported/exported_sizes.h"
#include "exported/exported_structure.h"
#include "files/open_file.h"

namespace it3 {
namespace {

using nlohmann::json;

constexpr const char* program_record = "models/model.json";

// The numbers of torch's export schema, of which 0 is unknown.
at::ScalarType dtype_of(std::int64_t number) {
  constexpr std::int64_t last_in_torchs_order = 12, bfloat16 = 13;
  if (number == bfloat16) return at::kBFloat16;
  TORCH_CHECK_VALUE(number > 0 && number <= last_in_torchs_order, "it has tensors of an unknown dtype, ", number);
  return static_cast<at::ScalarType>(number - 1);
}

at::MemoryFormat memory_format_of(std::int64_t number) {
  using enum at::MemoryFormat;
  static const std::map<std::int64_t, at::MemoryFormat> formats = {
      {1, Contiguous}, {2, ChannelsLast}, {3, ChannelsLast3d}, {4, Preserve}};
  return formats.at(number);
}

at::Layout layout_of(std::int64_t number) {
  constexpr std::int64_t strided = 7;
  TORCH_CHECK_VALUE(number == strided, "it makes tensors that are not strided");
  return at::kStrided;
}

c10::Device device_of(const json& device) {
  const json& index = device.at("index");
  return {
      c10::Device(device.at("type").get<std::string>()).type(),
      index.is_null() ? c10::DeviceIndex(-1) : index.get<c10::DeviceIndex>()};
}

/// A number, or the text of an expression.
std::string text_of_size(const json& size) {
  if (size.contains("as_int")) return std::to_string(size.at("as_int").get<std::int64_t>());
  // As sympy.srepr() writes it: Mul(Integer(2), Symbol('s77', positive=True, integer=True)).
  static const std::regex symbol(R"(Symbol\('(\w+)'[^)]*\))"), number(R"(Integer\((-?\d+)\))");
  const std::string text = size.at("as_expr").at("expr_str");
  return std::regex_replace(std::regex_replace(text, symbol, "$1"), number, "$1");
}

std::vector<std::int64_t> numbers_in(const json& sizes) {
  std::vector<std::int64_t> numbers;
  for (const json& size : sizes) numbers.push_back(size.at("as_int").get<std::int64_t>());
  return numbers;
}

/// The modules around an operation, the innermost last, with their classes: "key,name,class;key,name,class".
std::vector<std::pair<std::string, std::string>> modules_around(const json& node) {
  std::vector<std::pair<std::string, std::string>> modules;
  const std::string stack = node.at("metadata").value("nn_module_stack", "");
  for (std::size_t begin = 0; begin < stack.size();) {
    const std::size_t end = std::min(stack.find(';', begin), stack.size());
    const std::string entry = stack.substr(begin, end - begin);
    const auto first = entry.find(','), last = entry.rfind(',');
    if (first != std::string::npos && first < last) {
      const std::string name = entry.substr(first + 1, last - first - 1);
      if (!name.starts_with("_empty_nn_module_stack")) modules.emplace_back(name, entry.substr(last + 1));
    }
    begin = end + 1;
  }
  return modules;
}

/// Makes a graph of the parts of a file.
class Reading {
 public:
  Reading(const detail::Archive& archive, std::optional<c10::Device> device) : archive_(archive), device_(device) {
    TORCH_CHECK_VALUE(
        detail::holds_exported_program(archive), "it holds no exported program; torch.export.save() writes such files");
    program_ = json::parse(archive.read(program_record));
  }

  ExportedGraph graph(const std::optional<OutputPath>& output) {
    const json& module = program_.at("graph_module");
    take_tensors("weights");
    take_tensors("constants");
    for (const json& spec : module.at("signature").at("input_specs")) take_input(spec);
    for (const json& node : module.at("graph").at("nodes")) take_operation(node);
    take_conditions();
    for (const json& node : module.at("graph").at("nodes")) take_conditions_of_squeeze(node);
    for (const json& call : module.at("module_call_graph")) take_call(call);
    graph_.output = output_at(output);
    return std::move(graph_);
  }

 private:
  /// @param kind  "weights" or "constants"
  void take_tensors(const std::string& kind) {
    const std::string folder = "data/" + kind + "/", config = folder + "model_" + kind + "_config.json";
    TORCH_CHECK_VALUE(
        archive_.has(config), "it was written by an older torch; read it there, and save it by torch 2.11 or newer");
    std::map<std::string, at::Tensor> bytes;  // of which several tensors may be parts
    const json entries = json::parse(archive_.read(config)).at("config");
    for (const auto& [name, entry] : entries.items()) {
      TORCH_CHECK_VALUE(
          !entry.at("use_pickle").get<bool>() && !entry.at("tensor_meta").is_null(), "its '", name,
          "' is no plain tensor, which is not supported");
      const json& meta = entry.at("tensor_meta");
      const at::ScalarType dtype = dtype_of(meta.at("dtype"));
      layout_of(meta.at("layout"));
      const std::string path = entry.at("path_name");
      if (!bytes.contains(path)) {
        bytes.emplace(path, read_bytes(folder + path, dtype).to(device_.value_or(device_of(meta.at("device")))));
      }
      tensors_[name] = bytes.at(path).as_strided(
          numbers_in(meta.at("sizes")), numbers_in(meta.at("strides")),
          meta.at("storage_offset").at("as_int").get<std::int64_t>());
      if (meta.at("requires_grad").get<bool>()) tensors_[name].requires_grad_();
    }
  }

  at::Tensor read_bytes(const std::string& record, at::ScalarType dtype) const {
    const std::string content = archive_.read(record);
    const auto size = static_cast<std::int64_t>(content.size() / c10::elementSize(dtype));
    const at::Tensor tensor = at::empty({size}, dtype);
    std::memcpy(tensor.mutable_data_ptr(), content.data(), tensor.nbytes());
    return tensor;
  }

  void take_input(const json& spec) {
    if (spec.contains("user_input")) {
      const json& argument = spec.at("user_input").at("arg");
      if (!argument.contains("as_tensor")) return;  // a constant, which is in the operations
      const std::string name = argument.at("as_tensor").at("name");
      std::vector<std::string> sizes;
      const json& values = program_.at("graph_module").at("graph").at("tensor_values");
      for (const json& size : values.at(name).at("sizes")) sizes.push_back(text_of_size(size));
      graph_.inputs.push_back({name, std::move(sizes)});
      return;
    }
    if (spec.contains("constant_input")) return;
    for (const auto& [kind, name] :
         {std::pair("parameter", "parameter_name"), std::pair("buffer", "buffer_name"),
          std::pair("tensor_constant", "tensor_constant_name")}) {
      if (!spec.contains(kind)) continue;
      const json& tensor = spec.at(kind);
      const std::string dotted = tensor.at(name);
      const auto known = tensors_.find(dotted);
      TORCH_CHECK_VALUE(known != tensors_.end(), "its tensor '", dotted, "' is missing");
      graph_.tensors.push_back(
          {tensor.at("arg").at("name"), dotted, known->second, std::string_view(kind) == "parameter"});
      return;
    }
    TORCH_CHECK_VALUE(false, "it takes an input that is not a tensor: ", spec.dump());
  }

  void take_operation(const json& node) {
    ExportedOperation operation;
    operation.target = node.at("target");
    for (const json& input : node.at("inputs")) {
      const std::string name = input.at("name");
      ExportedArgument given = argument_from(input.at("arg"), operation.target);
      const auto* const constant = std::get_if<c10::IValue>(&given.is);
      if (name == "device" && constant != nullptr &&
          constant->isString()) {  // as torch's move_to_device_pass() gives it
        given = {c10::IValue(device_.value_or(c10::Device(constant->toStringRef())))};
      }
      operation.arguments.emplace_back(name, std::move(given));
    }
    for (const json& output : node.at("outputs")) {
      if (output.contains("as_tensors")) {
        operation.gives_list = true;
        for (const json& element : output.at("as_tensors")) operation.results.push_back(element.at("name"));
      } else {
        operation.results.push_back(name_of(output));
      }
    }
    for (const auto& [name, class_name] : modules_around(node)) {
      operation.modules.push_back(name);
      const bool is_known = std::any_of(graph_.layers.begin(), graph_.layers.end(), [&name = name](const auto& known) {
        return known.first == name;
      });
      if (!is_known) graph_.layers.emplace_back(name, class_name);
    }
    graph_.operations.push_back(std::move(operation));
  }

  /// Of a value; empty for none.
  static std::string name_of(const json& output) {
    for (const char* const kind : {"as_tensor", "as_optional_tensor"}) {
      if (!output.contains(kind)) continue;
      const json& value = output.at(kind).contains("as_tensor") ? output.at(kind).at("as_tensor") : output.at(kind);
      return value.value("name", "");
    }
    for (const char* const kind : {"as_sym_int", "as_sym_bool", "as_sym_float"}) {
      if (output.contains(kind)) return output.at(kind).value("as_name", "");
    }
    return "";
  }

  ExportedArgument argument_from(const json& argument, const std::string& target) const {
    TORCH_CHECK_VALUE(argument.is_object() && argument.size() == 1, "its calls of ", target, " are damaged");
    const auto only = argument.begin();
    const std::string& kind = only.key();
    const json& value = only.value();
    const auto list_of = [&](const char* of_each) {
      std::vector<ExportedArgument> elements;
      for (const json& element : value) {
        elements.push_back(argument_from(of_each != nullptr ? json{{of_each, element}} : element, target));
      }
      return ExportedArgument{std::move(elements)};
    };
    if (kind == "as_none") return {c10::IValue()};
    if (kind == "as_tensor") return {ExportedArgument::Value{value.at("name")}};
    if (kind == "as_name") return {ExportedArgument::Value{value}};
    if (kind == "as_int") return {c10::IValue(value.get<std::int64_t>())};
    if (kind == "as_float") return {c10::IValue(number_from(value))};
    if (kind == "as_bool") return {c10::IValue(value.get<bool>())};
    if (kind == "as_string") return {c10::IValue(value.get<std::string>())};
    if (kind == "as_scalar_type") return {c10::IValue(dtype_of(value))};
    if (kind == "as_memory_format") return {c10::IValue(memory_format_of(value))};
    if (kind == "as_layout") return {c10::IValue(layout_of(value))};
    if (kind == "as_device") return {c10::IValue(device_.value_or(device_of(value)))};
    if (kind == "as_sym_int" || kind == "as_sym_bool" || kind == "as_sym_float") return argument_from(value, target);
    if (kind == "as_optional_tensor") return argument_from(value, target);
    if (kind == "as_tensors") return list_of("as_tensor");
    if (kind == "as_ints") return list_of("as_int");
    if (kind == "as_floats") return list_of("as_float");
    if (kind == "as_bools") return list_of("as_bool");
    if (kind == "as_strings") return list_of("as_string");
    const bool is_list =
        kind == "as_sym_ints" || kind == "as_optional_tensors" || kind == "as_sym_bools" || kind == "as_sym_floats";
    TORCH_CHECK_VALUE(is_list, "it calls ", target, " with ", kind, ", which is not supported");
    return list_of(nullptr);
  }

  /// JSON has no infinities.
  static double number_from(const json& value) {
    if (!value.is_string()) return value.get<double>();
    return std::stod(value.get<std::string>());
  }

  void take_conditions() {
    if (program_.contains("guards_code")) {
      graph_.conditions = program_.at("guards_code").get<std::vector<std::string>>();
    }
    for (const auto& [symbol, range] : program_.at("range_constraints").items()) {
      const json &least = range.at("min_val"), &most = range.at("max_val");
      if (least.is_number_integer() && least.get<std::int64_t>() > 0) {
        graph_.conditions.push_back(c10::str(symbol, " >= ", least.get<std::int64_t>()));
      }
      if (most.is_number_integer()) graph_.conditions.push_back(c10::str(symbol, " <= ", most.get<std::int64_t>()));
    }
  }

  /// Dimensions of open sizes that an operation squeezes: torch.export takes them for others than 1 without noting it.
  void take_conditions_of_squeeze(const json& node) {
    const std::string target = node.at("target");
    if (!target.starts_with("torch.ops.aten.squeeze.")) return;
    const json& inputs = node.at("inputs");
    const std::string squeezed = inputs.at(0).at("arg").at("as_tensor").at("name");
    const json& sizes = program_.at("graph_module").at("graph").at("tensor_values").at(squeezed).at("sizes");
    const auto rank = static_cast<std::int64_t>(sizes.size());
    std::vector<std::int64_t> dims;
    if (inputs.size() < 2) {
      for (std::int64_t dim = 0; dim < rank; ++dim) dims.push_back(dim);
    } else {
      const json& given = inputs.at(1).at("arg");
      dims = given.contains("as_ints") ? given.at("as_ints").get<std::vector<std::int64_t>>()
                                       : std::vector<std::int64_t>{given.at("as_int").get<std::int64_t>()};
    }
    if (rank == 0) return;
    for (const std::int64_t dim : dims) {
      const json& size = sizes.at(static_cast<std::size_t>(dim < 0 ? dim + rank : dim));
      if (size.contains("as_int")) continue;
      const std::string text = text_of_size(size);
      TORCH_CHECK_VALUE(
          !detail::depends_on_values(text), "forward() squeezes a dimension whose size depends on values");
      graph_.conditions.push_back("(" + text + ") != 1");
    }
  }

  void take_call(const json& call) {
    const std::string layer = call.at("fqn");
    const json& signature = call.at("signature");
    if (layer.empty() || signature.is_null()) return;
    std::vector<std::string> returned;
    for (const json& output : signature.at("outputs")) returned.push_back(name_of(output));
    graph_.calls.push_back({layer, std::move(returned), signature.at("out_spec")});
  }

  std::string output_at(const std::optional<OutputPath>& path) const {
    const json& module = program_.at("graph_module");
    std::vector<std::string> names;
    for (const json& spec : module.at("signature").at("output_specs")) {
      TORCH_CHECK_VALUE(spec.contains("user_output"), "it changes its inputs or buffers, which is not supported");
      names.push_back(name_of(spec.at("user_output").at("arg")));
    }
    if (path) {
      for (const json& call : module.at("module_call_graph")) {
        if (!call.at("fqn").get<std::string>().empty()) continue;
        return detail::value_at(call.at("signature").at("out_spec").get<std::string>(), names, *path, "the model");
      }
    }
    const auto tensors = std::count_if(names.begin(), names.end(), [](const auto& name) { return !name.empty(); });
    TORCH_CHECK_VALUE(tensors == 1, "it returns ", tensors, " tensors; say by output which one is the prediction");
    return *std::find_if(names.begin(), names.end(), [](const auto& name) { return !name.empty(); });
  }

  const detail::Archive& archive_;
  std::optional<c10::Device> device_;
  json program_;
  std::map<std::string, at::Tensor> tensors_;
  ExportedGraph graph_;
};

}  // namespace

bool detail::holds_exported_program(const Archive& archive) { return archive.has(program_record); }

ExportedGraph detail::exported_graph_in(
    const Archive& archive, const std::optional<OutputPath>& output, std::optional<c10::Device> device) {
  return Reading(archive, device).graph(output);
}

ExportedGraph read_exported_program(
    const std::string& path, const std::optional<OutputPath>& output, std::optional<c10::Device> device) {
  auto file = detail::open_file(path);
  try {
    const detail::Archive archive(std::move(file));
    return detail::exported_graph_in(archive, output, device);
  } catch (const std::exception& error) {
    TORCH_CHECK_VALUE(false, "'", path, "' cannot be read as an exported program: ", error_text(error));
  }
}

}  // namespace it3
