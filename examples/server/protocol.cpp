#include "protocol.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include <ATen/ops/empty.h>
#include <c10/util/StringUtil.h>
#include <c10/util/accumulate.h>
#include <nlohmann/json.hpp>

namespace serving {
namespace {

using Json = nlohmann::ordered_json;

/// What is no UTF-8, as errors may quote it, with a mark in its place.
std::string dump(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

template <typename... Parts>
[[noreturn]] void refuse(const Parts&... parts) {
  throw BadRequest(c10::str(parts...));
}

/// The protocol's name of a type. Half precision is told, and answered, as FP32.
std::string datatype_of(c10::ScalarType dtype) {
  if (dtype == c10::kLong) return "INT64";
  return dtype == c10::kDouble ? "FP64" : "FP32";
}

const Json& member(const Json& object, const char* name, Json::value_t type, const std::string& where) {
  const auto found = object.find(name);
  if (found == object.end()) refuse(where, " has no \"", name, "\"");
  if (found->type() != type) refuse("\"", name, "\" of ", where, " must be ", Json(type).type_name());
  return *found;
}

/// A value for people. Lists may be nested so deeply that writing them would overflow the stack.
std::string shown(const Json& value) {
  return value.is_structured() ? std::string("an ") + value.type_name() : dump(value).substr(0, 40);
}

/// The numbers of one input, in a flat list or in lists in lists.
class Data {
 public:
  Data(const TensorInfo& tensor, const Json& list) : tensor_(tensor), list_(list) {
    is_flat_ = list.empty() || !list.front().is_array();
    const std::int64_t expected = c10::multiply_integers(tensor.shape);
    const std::int64_t given = is_flat_ ? size_of(list) : count(list, 0);
    if (given != expected) {
      refuse(
          name(), " has ", given, " numbers, where its shape ", to_text(tensor.dtype, tensor.shape), " has ", expected);
    }
  }

  template <typename Number>
  at::Tensor read() const {
    at::Tensor tensor = at::empty(tensor_.shape, tensor_.dtype);
    Number* next = tensor.data_ptr<Number>();
    fill(list_, is_flat_ ? 1 : tensor_.shape.size(), next);
    return tensor;
  }

 private:
  static std::int64_t size_of(const Json& list) { return static_cast<std::int64_t>(list.size()); }
  std::string name() const { return "the data of the input \"" + tensor_.name + "\""; }

  /// How many numbers nested lists hold, if each is as long as the shape says.
  std::int64_t count(const Json& list, std::size_t dim) const {
    if (!list.is_array() || size_of(list) != tensor_.shape[dim]) {
      refuse(name(), " is nested in another way than its shape ", to_text(tensor_.dtype, tensor_.shape));
    }
    if (dim + 1 == tensor_.shape.size()) return size_of(list);
    std::int64_t sum = 0;
    for (const Json& item : list) sum += count(item, dim + 1);
    return sum;
  }

  template <typename Number>
  void fill(const Json& list, std::size_t levels, Number*& next) const {
    for (const Json& item : list) {
      if (levels > 1) {
        fill(item, levels - 1, next);
      } else {
        *next++ = number<Number>(item);
      }
    }
  }

  template <typename Number>
  Number number(const Json& value) const {
    constexpr bool is_whole = std::is_same_v<Number, std::int64_t>;
    const bool is_too_large =
        is_whole && value.is_number_unsigned() && value.get<std::uint64_t>() > std::numeric_limits<std::int64_t>::max();
    const bool is_of_kind = is_whole ? value.is_number_integer() : value.is_number();
    if (!is_of_kind || is_too_large || !std::isfinite(value.get<Number>())) {
      refuse(name(), " has ", shown(value), ", which is no finite number of its datatype");
    }
    return value.get<Number>();
  }

  const TensorInfo& tensor_;
  const Json& list_;
  bool is_flat_ = true;
};

/// What a tensor in a request says that it is, if the model can take it.
TensorInfo header_of(const Json& tensor, const TensorInfo& expected) {
  const std::string where = "the input \"" + expected.name + "\"";
  const std::string& datatype = member(tensor, "datatype", Json::value_t::string, where).get_ref<const std::string&>();
  TensorInfo header{expected.name, c10::kFloat, {}};
  const bool takes_integers = expected.dtype == c10::kLong;
  if (datatype == "INT64" && takes_integers) {
    header.dtype = c10::kLong;
  } else if (datatype == "FP64" && !takes_integers) {
    header.dtype = c10::kDouble;
  } else if (datatype != "FP32" || takes_integers) {
    refuse(where, " is ", datatype, ", where ", takes_integers ? "INT64 is" : "FP32 and FP64 are", " accepted");
  }
  for (const Json& size : member(tensor, "shape", Json::value_t::array, where)) {
    if (!size.is_number_integer() || size <= 0 || size > std::numeric_limits<std::int32_t>::max()) {
      refuse("the shape of ", where, " must be whole numbers above 0, without ", shown(size));
    }
    header.shape.push_back(size.get<std::int64_t>());
  }
  if (header.shape.size() != expected.shape.size()) {
    refuse(
        where, " is ", to_text(header.dtype, header.shape), ", with ", header.shape.size(),
        " dimensions; it must have ", expected.shape.size(), ", as the ", to_text(expected.dtype, expected.shape),
        " that the engine was saved with");
  }
  double count = 1;  // which cannot overflow
  for (const std::int64_t size : header.shape) count *= static_cast<double>(size);
  if (count > std::numeric_limits<std::int32_t>::max())
    refuse("the shape of ", where, " has more numbers than any body");
  return header;
}

at::Tensor tensor_from(const Json& tensor, const TensorInfo& expected) {
  const TensorInfo header = header_of(tensor, expected);
  const Data data(header, member(tensor, "data", Json::value_t::array, "the input \"" + expected.name + "\""));
  if (header.dtype == c10::kLong) return data.read<std::int64_t>();
  return header.dtype == c10::kDouble ? data.read<double>() : data.read<float>();
}

std::string names_of(const std::vector<TensorInfo>& tensors) {
  std::vector<std::string> names;
  for (const auto& tensor : tensors) names.push_back("\"" + tensor.name + "\"");
  return c10::Join(", ", names);
}

std::vector<at::Tensor> inputs_from(const Json& given, const std::vector<TensorInfo>& expected) {
  std::vector<at::Tensor> inputs(expected.size());
  for (const Json& tensor : given) {
    if (!tensor.is_object()) refuse("each of the \"inputs\" must be an object");
    const std::string& name = member(tensor, "name", Json::value_t::string, "an input").get_ref<const std::string&>();
    const auto found =
        std::find_if(expected.begin(), expected.end(), [&](const auto& info) { return info.name == name; });
    if (found == expected.end()) refuse("there is no input \"", name, "\"; the model has ", names_of(expected));
    at::Tensor& input = inputs[static_cast<std::size_t>(found - expected.begin())];
    if (input.defined()) refuse("the input \"", name, "\" is given twice");
    input = tensor_from(tensor, *found);
  }
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (!inputs[i].defined())
      refuse("the input \"", expected[i].name, "\" is missing; the model has ", names_of(expected));
  }
  return inputs;
}

std::vector<std::string> outputs_from(const Json& asked) {
  std::vector<std::string> outputs;
  for (const Json& output : asked) {
    if (!output.is_object()) refuse("each of the \"outputs\" must be an object");
    const std::string name = member(output, "name", Json::value_t::string, "an output");
    if (name != prediction_name && name != uncertainty_name) {
      refuse(
          "there is no output \"", name, "\"; the model has \"", prediction_name, "\" and \"", uncertainty_name, "\"");
    }
    if (std::find(outputs.begin(), outputs.end(), name) == outputs.end()) outputs.push_back(name);
  }
  return outputs;
}

template <typename Number>
Json numbers_of(const at::Tensor& tensor) {
  const Number* const first = tensor.data_ptr<Number>();
  return std::vector<Number>(first, first + tensor.numel());
}

Json to_json(const std::string& name, const at::Tensor& tensor) {
  const auto dtype = tensor.scalar_type();
  const Json data = dtype == c10::kDouble ? numbers_of<double>(tensor)
                    : dtype == c10::kLong ? numbers_of<std::int64_t>(tensor)
                                          : numbers_of<float>(tensor);
  return {{"name", name}, {"datatype", datatype_of(dtype)}, {"shape", tensor.sizes().vec()}, {"data", data}};
}

Json to_json(const std::vector<TensorInfo>& tensors) {
  Json list = Json::array();
  for (const auto& tensor : tensors) {
    std::vector<std::int64_t> shape = tensor.shape;
    if (!shape.empty()) shape[0] = -1;
    list.push_back({{"name", tensor.name}, {"datatype", datatype_of(tensor.dtype)}, {"shape", shape}});
  }
  return list;
}

}  // namespace

std::string to_text(c10::ScalarType dtype, const std::vector<std::int64_t>& shape) {
  return c10::str(datatype_of(dtype), " [", c10::Join(", ", shape), "]");
}

bool InferRequest::wants_uncertainty() const {
  return std::find(outputs.begin(), outputs.end(), uncertainty_name) != outputs.end();
}

InferRequest parse_infer_request(const std::string& body, const std::vector<TensorInfo>& inputs) {
  Json json;
  try {
    json = Json::parse(body);
  } catch (const Json::exception& error) {  // 1e999 too, which no number holds
    const std::string text = error.what();  // behind the library's name for it, in brackets
    refuse("the body is no JSON, in which NaN and infinity do not exist: ", text.substr(text.find("] ") + 2));
  }
  const std::string where = "the request";
  if (!json.is_object()) refuse("the body must be a JSON object, not ", json.type_name());
  InferRequest request;
  if (json.contains("id")) request.id = member(json, "id", Json::value_t::string, where);
  request.inputs = inputs_from(member(json, "inputs", Json::value_t::array, where), inputs);
  if (json.contains("outputs")) {
    auto outputs = outputs_from(member(json, "outputs", Json::value_t::array, where));
    if (!outputs.empty()) request.outputs = std::move(outputs);
  }
  if (json.contains("parameters")) {
    const Json& parameters = member(json, "parameters", Json::value_t::object, where);
    if (const auto timeout = parameters.find("timeout"); timeout != parameters.end()) {
      if (!timeout->is_number_integer() || *timeout <= 0 || *timeout > std::int64_t{3'600'000'000}) {
        refuse("the parameter \"timeout\" must be a whole number of microseconds, from 1 to an hour's");
      }
      request.timeout = std::chrono::microseconds(timeout->get<std::int64_t>());
    }
  }
  return request;
}

std::string infer_response(
    const std::string& model,
    const std::optional<std::string>& id,
    const std::vector<std::pair<std::string, at::Tensor>>& outputs) {
  Json json = {{"model_name", model}};
  if (id) json["id"] = *id;
  json["outputs"] = Json::array();
  for (const auto& [name, tensor] : outputs) json["outputs"].push_back(to_json(name, tensor));
  return dump(json);
}

std::string server_metadata() {
  return dump({{"name", "it3-server"}, {"version", IT3_VERSION}, {"extensions", Json::array()}});
}

std::string model_metadata(
    const std::string& model, const std::vector<TensorInfo>& inputs, const std::vector<TensorInfo>& outputs) {
  return dump(
      {{"name", model},
       {"versions", Json::array()},
       {"platform", "it3"},
       {"inputs", to_json(inputs)},
       {"outputs", to_json(outputs)}});
}

std::string model_readiness(const std::string& model, bool is_ready) {
  return dump({{"name", model}, {"ready", is_ready}});
}

std::string error_body(const std::string& text) { return dump({{"error", text}}); }

}  // namespace serving
