#include "exported/exported_module.h"

#include <algorithm>
#include <map>
#include <optional>
#include <regex>
#include <string_view>
#include <utility>

#include <c10/util/Exception.h>
#include <torch/csrc/jit/api/compilation_unit.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/ir/constants.h>
#include <torch/csrc/jit/ir/ir.h>
#include <torch/csrc/jit/runtime/operator.h>

#include <it3/error_text.h>

#include "exported/exported_sizes.h"

namespace it3::detail {
namespace {

using torch::jit::Graph;
using torch::jit::Node;
using torch::jit::Value;
namespace prim = c10::prim;

/// What Python's functions on sizes are in TorchScript.
const std::map<std::string_view, const char*>& functions_of_numbers() {
  static const std::map<std::string_view, const char*> table = {
      {"_operator.add", "aten::add"},
      {"_operator.sub", "aten::sub"},
      {"_operator.mul", "aten::mul"},
      {"_operator.neg", "aten::neg"},
      {"_operator.floordiv", "aten::floordiv"},
      {"_operator.truediv", "aten::div"},
      {"_operator.mod", "aten::remainder"},
      {"_operator.pow", "aten::pow"},
      {"_operator.eq", "aten::eq"},
      {"_operator.ne", "aten::ne"},
      {"_operator.lt", "aten::lt"},
      {"_operator.le", "aten::le"},
      {"_operator.gt", "aten::gt"},
      {"_operator.ge", "aten::ge"},
      {"_operator.and_", "aten::__and__"},
      {"_operator.or_", "aten::__or__"},
      {"torch.sym_not", "aten::__not__"},
      {"torch.sym_max", "prim::max"},
      {"torch.sym_min", "prim::min"},
      {"torch.sym_int", "aten::Int"},
      {"torch.sym_float", "aten::Float"},
      {"math.ceil", "aten::ceil"},
      {"math.floor", "aten::floor"},
      {"math.sqrt", "aten::sqrt"},
      {"torch._sym_sqrt", "aten::sqrt"},
  };
  return table;
}

/// Whether an operation is a check by torch.export of what it assumed, which the conditions on sizes say too, or which
/// is always so. Raises c10::ValueError for a check of values, as by torch._check(), which would be lost.
bool is_check(const ExportedOperation& operation) {
  const std::string& target = operation.target;
  if (target.starts_with("torch.ops.aten._assert_tensor_metadata")) return true;
  if (target.starts_with("torch.ops.aten.sym_constrain_range")) return true;
  if (!target.starts_with("torch.ops.aten._assert_")) return false;
  static const std::regex of_count(R"(expression u\d+ >= 0 on)");
  const auto* const said =
      operation.arguments.empty() ? nullptr : std::get_if<c10::IValue>(&operation.arguments.back().second.is);
  const std::string text = said != nullptr && said->isString() ? said->toStringRef() : "";
  const bool is_of_sizes =
      text.starts_with("Runtime assertion failed") && (!depends_on_values(text) || std::regex_search(text, of_count));
  TORCH_CHECK_VALUE(
      is_of_sizes && target.starts_with("torch.ops.aten._assert_scalar"),
      "the exported program checks values of tensors, which is not supported: ", target, " ", text);
  return true;
}

/// "torch.ops.aten.add.Tensor" is aten::add.Tensor; nothing for other targets.
std::optional<c10::OperatorName> operator_of(const std::string& target) {
  // Those on symbolic sizes are not for torch's vmap.
  static const std::map<std::string_view, c10::OperatorName> of_sizes = {
      {"torch.ops.aten.sym_size.int", {"aten::size", "int"}},
      {"torch.ops.aten.sym_stride.int", {"aten::stride", "int"}},
      {"torch.ops.aten.sym_numel.default", {"aten::numel", ""}},
      {"torch.ops.aten.sym_storage_offset.default", {"aten::storage_offset", ""}},
  };
  if (const auto known = of_sizes.find(target); known != of_sizes.end()) return known->second;
  constexpr std::string_view prefix = "torch.ops.";
  if (!target.starts_with(prefix)) return std::nullopt;
  const auto space = target.find('.', prefix.size()), overload = target.rfind('.');
  if (space == std::string::npos || overload <= space) return std::nullopt;
  std::string name = target.substr(prefix.size(), space - prefix.size());
  name.append("::").append(target, space + 1, overload - space - 1);
  const std::string last = target.substr(overload + 1);
  return c10::OperatorName(std::move(name), last == "default" ? "" : last);
}

/// Makes a TorchScript module of an exported program: its modules, with their classes, parameters and buffers, and a
/// forward() that is the program. The layer's own forward() gives what it is given.
class ModuleBuilder {
 public:
  ModuleBuilder(const ExportedGraph& program, const std::string& layer)
      : program_(program),
        layer_(layer),
        unit_(std::make_shared<torch::jit::CompilationUnit>()),
        module_(make_module("")),
        graph_(std::make_shared<Graph>()) {}

  torch::jit::Module build() {
    modules_.emplace("", module_);
    for (const ExportedTensor& tensor : program_.tensors) add(tensor);  // first: parameters keep their order
    for (const auto& [name, class_name] : program_.layers) module_at(name);
    if (!layer_.empty()) give_identity(module_at(layer_));  // the whole module is marked at its end

    self_ = graph_->addInput("self");
    for (const ExportedInput& input : program_.inputs) {
      set(input.value, graph_->addInput(input.value)->setType(c10::TensorType::get()));
    }
    self_->setType(module_.type());
    for (const ExportedTensor& tensor : program_.tensors) set(tensor.value, read(tensor.name));
    for (const ExportedOperation& operation : program_.operations) append(operation);
    graph_->registerOutput(value_of(program_.output));
    add_method(module_, graph_);
    return module_;
  }

 private:
  torch::jit::Module make_module(const std::string& name) const {
    const auto known = std::find_if(
        program_.layers.begin(), program_.layers.end(), [&](const auto& layer) { return layer.first == name; });
    const std::string class_name = known != program_.layers.end() && !known->second.empty() ? known->second : "Module";
    torch::jit::Module module("__torch__." + class_name, unit_, /*shouldMangle=*/true);
    module.register_attribute("training", c10::BoolType::get(), false);
    return module;
  }

  /// The module of this name, which is made where there is none, with those around it.
  torch::jit::Module& module_at(const std::string& name) {
    if (const auto known = modules_.find(name); known != modules_.end()) return known->second;
    const auto dot = name.rfind('.');
    torch::jit::Module around = module_at(dot == std::string::npos ? "" : name.substr(0, dot));
    torch::jit::Module module = make_module(name);
    around.register_module(dot == std::string::npos ? name : name.substr(dot + 1), module);
    return modules_.emplace(name, std::move(module)).first->second;
  }

  void add(const ExportedTensor& tensor) {
    const auto dot = tensor.name.rfind('.');
    torch::jit::Module& owner = module_at(dot == std::string::npos ? "" : tensor.name.substr(0, dot));
    const std::string name = dot == std::string::npos ? tensor.name : tensor.name.substr(dot + 1);
    if (owner.hasattr(name)) return;  // two values of one tensor
    owner.register_attribute(name, c10::TensorType::get(), tensor.tensor, tensor.is_parameter, !tensor.is_parameter);
  }

  void add_method(const torch::jit::Module& owner, const std::shared_ptr<Graph>& graph) const {
    const auto class_name = owner.type()->name();
    TORCH_INTERNAL_ASSERT(class_name.has_value());
    owner.type()->addMethod(unit_->create_function(c10::QualifiedName(*class_name, "forward"), graph));
  }

  void give_identity(const torch::jit::Module& owner) const {
    const auto graph = std::make_shared<Graph>();
    graph->addInput("self")->setType(owner.type());
    graph->registerOutput(graph->addInput("features")->setType(c10::TensorType::get()));
    add_method(owner, graph);
  }

  /// The value of a module or tensor.
  Value* read(const std::string& name) {
    if (name.empty()) return self_;
    const auto dot = name.rfind('.');
    Value* const owner = read(dot == std::string::npos ? "" : name.substr(0, dot));
    return graph_->insertGetAttr(owner, dot == std::string::npos ? name : name.substr(dot + 1));
  }

  void set(const std::string& name, Value* value) {
    if (!name.empty()) values_[name] = value;
  }

  /// What comes behind the layer's output: a call of its forward(), which the cut looks for.
  Value* behind_layer(Value* features) {
    if (layer_.empty()) return features;
    Node* const call = graph_->insertNode(graph_->create(prim::CallMethod, {read(layer_), features}));
    call->s_(c10::attr::name, "forward");
    return call->output()->setType(c10::TensorType::get());
  }

  Value* value_of(const std::string& name) const {
    const auto known = values_.find(name);
    TORCH_CHECK_VALUE(known != values_.end(), "the exported program has no value '", name, "'");
    return known->second;
  }

  void append(const ExportedOperation& operation) {
    if (is_check(operation)) return;
    if (operation.target == features_target) {
      Value* const features = value_of(operation.arguments.at(0).second, *c10::TensorType::get());
      return set(operation.results.at(0), behind_layer(features));
    }
    try {
      const auto name = operator_of(operation.target);
      name ? call(operation, *name) : call_on_numbers(operation);
    } catch (const c10::ValueError&) {
      throw;
    } catch (const std::exception& error) {
      TORCH_CHECK_VALUE(
          false, "the exported program's operation ", operation.target, " cannot be run: ", error_text(error));
    }
  }

  /// An operation of torch's, in the order of its schema.
  void call(const ExportedOperation& operation, const c10::OperatorName& name) {
    const auto known = torch::jit::findOperatorFor(name);
    TORCH_CHECK_VALUE(
        known != nullptr, "the exported program calls ", operation.target,
        ", which this torch does not have as an operation, or which calls other functions, as torch.cond() does");
    const c10::FunctionSchema& schema = known->schema();
    std::vector<Value*> inputs;
    for (std::size_t i = 0; i < schema.arguments().size(); ++i) {
      const c10::Argument& parameter = schema.arguments()[i];
      const ExportedArgument* const given = argument(operation, parameter.name(), i);
      if (given != nullptr) {
        inputs.push_back(value_of(*given, *parameter.type()));
        continue;
      }
      const auto& otherwise = parameter.default_value();
      TORCH_CHECK_VALUE(
          otherwise.has_value(), "the exported program calls ", operation.target, " without '", parameter.name(), "'");
      inputs.push_back(constant(*otherwise, *parameter.type()));
    }
    Node* const node =
        graph_->insertNode(graph_->create(c10::Symbol::fromQualString(schema.name()), inputs, schema.returns().size()));
    for (std::size_t i = 0; i < schema.returns().size(); ++i) node->output(i)->setType(schema.returns()[i].type());
    // A number for a tensor, as in x / 2, has an overload of its own.
    TORCH_CHECK_VALUE(
        node->schema().overload_name() == schema.overload_name() || has_number_for_tensor(inputs, schema),
        "the exported program's ", operation.target, " would be run as another overload, ", node->schema());
    if (!operation.gives_list) {
      for (std::size_t i = 0; i < std::min(node->outputs().size(), operation.results.size()); ++i) {
        set(operation.results[i], node->output(i));
      }
      return;
    }
    Node* const unpack = graph_->insertNode(graph_->createListUnpack(node->output(), operation.results.size()));
    for (std::size_t i = 0; i < operation.results.size(); ++i) set(operation.results[i], unpack->output(i));
  }

  /// A function of Python's.
  void call_on_numbers(const ExportedOperation& operation) {
    const auto known = functions_of_numbers().find(operation.target);
    TORCH_CHECK_VALUE(
        known != functions_of_numbers().end(), "the exported program calls ", operation.target,
        ", which is not supported: torch's operations, and arithmetic on sizes, are");
    std::vector<torch::jit::NamedValue> inputs;
    for (const auto& [name, given] : operation.arguments) {
      const auto* const value = std::get_if<ExportedArgument::Value>(&given.is);
      const auto* const number = std::get_if<c10::IValue>(&given.is);
      TORCH_CHECK_VALUE(value != nullptr || number != nullptr, operation.target, " is given a list");
      inputs.emplace_back(value != nullptr ? value_of(value->name) : graph_->insertConstant(*number));
    }
    set(operation.results.at(0), graph_->insert(c10::Symbol::fromQualString(known->second), inputs));
  }

  static bool has_number_for_tensor(const std::vector<Value*>& inputs, const c10::FunctionSchema& schema) {
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      const bool is_tensor = schema.arguments()[i].type()->kind() == c10::TypeKind::TensorType;
      if (is_tensor && inputs[i]->type()->isSubtypeOf(*c10::NumberType::get())) return true;
    }
    return false;
  }

  static const ExportedArgument* argument(
      const ExportedOperation& operation, const std::string& name, std::size_t place) {
    const auto& all = operation.arguments;
    if (place < all.size() && all[place].first.empty()) return &all[place].second;
    const auto named = std::find_if(all.begin(), all.end(), [&](const auto& each) { return each.first == name; });
    return named != all.end() ? &named->second : nullptr;
  }

  Value* value_of(const ExportedArgument& given, const c10::Type& type) {
    if (const auto* const value = std::get_if<ExportedArgument::Value>(&given.is)) {
      return converted(value_of(value->name), type);
    }
    if (const auto* const value = std::get_if<c10::IValue>(&given.is)) return constant(*value, type);
    const auto& elements = std::get<std::vector<ExportedArgument>>(given.is);
    const c10::Type* list = &type;
    if (const auto* const optional = type.castRaw<c10::OptionalType>()) list = optional->getElementType().get();
    const auto* const of = list->castRaw<c10::ListType>();
    TORCH_CHECK_VALUE(of != nullptr, "a list is given for a ", type.str());
    std::vector<Value*> values;
    values.reserve(elements.size());
    for (const ExportedArgument& element : elements) values.push_back(value_of(element, *of->getElementType()));
    return graph_->insertNode(graph_->createList(of->getElementType(), values))->output();
  }

  /// A number as an integer or a floating-point one, as it is needed.
  Value* converted(Value* value, const c10::Type& type) {
    const auto kind = type.kind() == c10::TypeKind::OptionalType
                          ? type.expectRef<c10::OptionalType>().getElementType()->kind()
                          : type.kind();
    const auto own = value->type()->kind();
    if (kind == c10::TypeKind::IntType && own == c10::TypeKind::NumberType) {
      return graph_->insert(c10::aten::Int, {value});
    }
    check_number(kind, own == c10::TypeKind::BoolType);
    const bool is_number = own == c10::TypeKind::NumberType || own == c10::TypeKind::IntType;
    return kind == c10::TypeKind::FloatType && is_number ? graph_->insert(c10::aten::Float, {value}) : value;
  }

  Value* constant(const c10::IValue& value, const c10::Type& type) {
    const c10::Type* wanted = &type;
    if (const auto* const optional = type.castRaw<c10::OptionalType>()) wanted = optional->getElementType().get();
    if (value.isInt() && wanted->kind() == c10::TypeKind::FloatType) {
      return graph_->insertConstant(static_cast<double>(value.toInt()));
    }
    if (wanted->kind() == c10::TypeKind::DeviceObjType && value.isString()) {
      return graph_->insertConstant(c10::Device(value.toStringRef()));
    }
    check_number(wanted->kind(), value.isBool());
    return graph_->insertConstant(value);
  }

  static void check_number(c10::TypeKind wanted, bool is_boolean) {
    TORCH_CHECK_VALUE(
        !is_boolean || wanted != c10::TypeKind::NumberType,
        "the exported program gives an operation a boolean for a number, which torch's interpreter does not take");
  }

  const ExportedGraph& program_;
  const std::string& layer_;
  std::shared_ptr<torch::jit::CompilationUnit> unit_;
  std::map<std::string, torch::jit::Module> modules_;
  torch::jit::Module module_;
  std::shared_ptr<Graph> graph_;
  Value* self_ = nullptr;
  std::map<std::string, Value*> values_;
};

}  // namespace

torch::jit::Module script_module_of(const ExportedGraph& program, const std::string& layer) {
  return ModuleBuilder(program, layer).build();
}

}  // namespace it3::detail
