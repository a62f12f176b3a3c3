#include "torchscript/script_injection.h"

#include <algorithm>
#include <span>
#include <vector>

#include <c10/util/Exception.h>

#include <it3/script_network.h>

#include "torchscript/script_graph.h"

namespace it3::detail {
namespace {

using torch::jit::Graph;
using torch::jit::Node;
using torch::jit::Value;
namespace aten = c10::aten;

using Part = OutputPath::value_type;
/// What of a path is still to go; nothing: always to the first element.
using Rest = std::optional<std::span<const Part>>;

/// On the node that stands for the layer's output. A name would not stay: inlining gives values other ones.
const c10::Symbol features_mark = c10::Symbol::attr("it3_features");

/// The place of a tuple's element; nothing if there is none.
std::optional<std::size_t> place_in(const c10::TupleType& tuple, const Part& part) {
  if (const auto* name = std::get_if<std::string>(&part)) {
    const auto index = tuple.schema() != nullptr ? tuple.schema()->argumentIndexWithName(*name) : std::nullopt;
    return index ? std::optional(static_cast<std::size_t>(*index)) : std::nullopt;
  }
  const auto size = static_cast<std::int64_t>(tuple.elements().size());
  const std::int64_t index = std::get<std::int64_t>(part);
  if (index < -size || index >= size) return std::nullopt;
  return static_cast<std::size_t>(index < 0 ? index + size : index);
}

class Marking {
 public:
  Marking(Graph& graph, const CutPlace& place, const Value* output) : graph_(graph), place_(place), output_(output) {}

  Value* operator()(Value* value, Rest rest) const {
    const auto& type = value->type();
    if (type->isSubtypeOf(*c10::TensorType::get())) {
      if (rest && !rest->empty()) refuse();
      Value* const marker = graph_.insert(aten::alias, {value});
      marker->node()->i_(features_mark, 1);
      return marker;
    }
    if (rest && rest->empty()) refuse();
    if (const auto tuple = type->cast<c10::TupleType>()) return in_tuple(value, tuple, rest);
    if (type->cast<c10::ListType>() != nullptr) return in_list(value, rest);
    if (type->cast<c10::DictType>() != nullptr && rest) return in_dict(value, rest);
    refuse();
  }

 private:
  [[noreturn]] void refuse() const {
    const std::string returned = output_->type()->repr_str();
    if (!place_.layer_output) {
      refuse_cut(
          place_.layer, c10::str("it returns ", returned, ", which does not begin with a tensor"),
          "Say by layer_output which of its outputs is meant, name a layer in it, or use the eager model in Python");
    }
    refuse_cut(
        place_.layer,
        c10::str("layer_output is '", to_text(*place_.layer_output), "', but the layer returns ", returned),
        "Give a path of indices and names to a tensor in it, such as 0 or 1.0");
  }

  static Rest after(const Rest& rest) { return rest ? Rest(rest->subspan(1)) : std::nullopt; }

  Value* in_tuple(Value* value, const c10::TupleTypePtr& tuple, const Rest& rest) const {
    const auto place = place_in(*tuple, rest ? rest->front() : Part(std::int64_t{0}));
    if (!place) refuse();
    Node* const unpack = graph_.insertNode(graph_.createTupleUnpack(value));
    std::vector<Value*> elements = unpack->outputs().vec();
    elements[*place] = (*this)(elements[*place], after(rest));
    return graph_.insertNode(graph_.createTuple(elements, tuple->schema() != nullptr ? tuple : nullptr))->output();
  }

  Value* in_list(Value* value, const Rest& rest) const {
    const auto* const index = rest ? std::get_if<std::int64_t>(&rest->front()) : nullptr;
    if (rest && index == nullptr) refuse();
    return in_container(value, graph_.insertConstant(index != nullptr ? *index : 0), aten::list, rest);
  }

  Value* in_dict(Value* value, const Rest& rest) const {
    const auto key = value->type()->expectRef<c10::DictType>().getKeyType()->kind();
    if (!rest) refuse();
    const Part& part = rest->front();
    const auto* const name = std::get_if<std::string>(&part);
    if (key != (name != nullptr ? c10::TypeKind::StringType : c10::TypeKind::IntType)) refuse();
    Value* const constant =
        name != nullptr ? graph_.insertConstant(*name) : graph_.insertConstant(std::get<std::int64_t>(part));
    return in_container(value, constant, aten::copy, rest);
  }

  /// A copy of a list or dict with another element.
  Value* in_container(Value* value, Value* key, c10::Symbol copying, const Rest& rest) const {
    Value* const element = (*this)(graph_.insert(aten::__getitem__, {value, key}), after(rest));
    Value* const copy = graph_.insert(copying, {value});
    graph_.insert(aten::_set_item, {copy, key, element});
    return copy;
  }

  Graph& graph_;
  const CutPlace& place_;
  const Value* output_;
};

}  // namespace

void refuse_cut(const std::string& layer, const std::string& why, std::string_view advice) {
  throw CutRefusal(
      c10::str("the TorchScript module cannot be cut at the layer '", layer, "': ", why, ". ", advice), why);
}

Value* mark_features(Graph& graph, Value* output, Node* before, const CutPlace& place) {
  const torch::jit::WithInsertPoint here(before);
  const Marking marking(graph, place, output);
  return marking(output, place.layer_output ? Rest(*place.layer_output) : std::nullopt);
}

Value* find_features(Graph& graph) {
  Value* features = nullptr;
  for_each_node(graph.block(), [&](Node* node) {
    if (node->kind() == aten::alias && node->hasAttribute(features_mark)) features = node->output();
  });
  return features;
}

void select_output(Graph& graph, OutputPath& path) {
  std::vector<std::size_t> places;
  c10::TypePtr type = graph.outputs().at(0)->type();
  for (const Part& part : path) {
    const auto tuple = type->cast<c10::TupleType>();
    if (tuple == nullptr) break;
    const auto place = place_in(*tuple, part);
    if (!place) return;  // which is an error when it is looked for
    places.push_back(*place);
    type = tuple->elements()[*place];
  }
  const torch::jit::WithInsertPoint here(graph.return_node());
  Value* value = graph.outputs().at(0);
  for (const std::size_t place : places) {
    value = graph.insertNode(graph.createTupleUnpack(value))->output(place);
  }
  graph.return_node()->replaceInput(0, value);
  path.erase(path.begin(), path.begin() + static_cast<std::ptrdiff_t>(places.size()));
}

}  // namespace it3::detail
