#include "in_dims_from_python.h"

#include <vector>

#include <ATen/core/Dict.h>
#include <c10/util/Exception.h>

#include "python_values.h"

namespace it3::python {
namespace {

bool is_number(py::handle object) { return PyLong_Check(object.ptr()) && !PyBool_Check(object.ptr()); }

[[noreturn]] void misfit(py::handle in_dims) {
  TORCH_CHECK_VALUE(
      false, "in_dims is ", py::repr(in_dims).cast<std::string>(),
      ", which does not have the structure of the inputs; give one dimension for all tensors, or a tuple or dictionary "
      "like the inputs, with a dimension for each tensor and None for those that all samples share, as for torch.vmap");
}

void add_dims(py::handle value, py::handle in_dims, std::vector<c10::IValue>& dims) {
  if (in_dims.is_none() || is_number(in_dims)) {
    const c10::IValue dim = in_dims.is_none() ? c10::IValue() : c10::IValue(in_dims.cast<std::int64_t>());
    dims.resize(dims.size() + tensors_in(value).size(), dim);
  } else if (is_sequence(value) && is_sequence(in_dims)) {
    if (py::len(value) != py::len(in_dims)) misfit(in_dims);
    for (std::size_t i = 0; i < py::len(value); ++i) add_dims(value[py::int_(i)], in_dims[py::int_(i)], dims);
  } else if (py::isinstance<py::dict>(in_dims) && py::hasattr(value, "keys")) {
    for (const py::handle key : py::list(value.attr("keys")())) {
      if (!in_dims.contains(key)) misfit(in_dims);
      add_dims(value[key], in_dims[key], dims);
    }
  } else {
    misfit(in_dims);
  }
}

}  // namespace

std::optional<InDims> in_dims_of_tensors(const py::object& inputs, const py::object& in_dims) {
  if (in_dims.is_none()) return std::nullopt;
  if (is_number(in_dims)) return in_dims_from(in_dims);
  const Arguments arguments = arguments_of(inputs);
  std::vector<c10::IValue> dims;
  if (arguments.kwargs.empty()) {
    add_dims(arguments.args, in_dims, dims);
  } else {
    add_dims(arguments.kwargs, in_dims, dims);
  }
  return c10::ivalue::Tuple::create(std::move(dims));
}

std::optional<InDims> in_dims_of_script(
    const ScriptNetwork& network, const py::object& inputs, const py::object& in_dims) {
  if (in_dims.is_none()) return std::nullopt;
  if (is_number(in_dims)) return in_dims_from(in_dims);
  const Arguments arguments = arguments_of(inputs);
  const bool are_keywords = !arguments.kwargs.empty();
  if (are_keywords ? !py::isinstance<py::dict>(in_dims) : !is_sequence(in_dims)) misfit(in_dims);
  if (py::len(in_dims) != (are_keywords ? arguments.kwargs.size() : arguments.args.size())) misfit(in_dims);
  const auto& parameters = network.module().get_method("forward").function().getSchema().arguments();
  std::vector<c10::IValue> dims;
  for (std::size_t i = 1; i < parameters.size(); ++i) {  // 0 is self
    const py::str name(parameters[i].name());
    if (are_keywords) {
      dims.push_back(in_dims.contains(name) ? in_dims_from(in_dims[name]) : c10::IValue());
    } else {
      dims.push_back(i <= arguments.args.size() ? in_dims_from(in_dims[py::int_(i - 1)]) : c10::IValue());
    }
  }
  return c10::ivalue::Tuple::create(std::move(dims));
}

InDims in_dims_from(const py::object& in_dims) {
  if (in_dims.is_none()) return {};
  if (is_number(in_dims)) return in_dims.cast<std::int64_t>();
  if (is_sequence(in_dims)) {
    std::vector<c10::IValue> elements;
    for (const py::handle item : in_dims) elements.push_back(in_dims_from(py::reinterpret_borrow<py::object>(item)));
    return c10::ivalue::Tuple::create(std::move(elements));
  }
  TORCH_CHECK_TYPE(
      py::isinstance<py::dict>(in_dims),
      "in_dims must be a whole number, None, or a tuple, list or dictionary of such, "
      "as torch.vmap takes it, not a ",
      type_name(in_dims));
  const c10::impl::GenericDict dict(c10::StringType::get(), c10::AnyType::get());
  for (const auto& [key, value] : py::reinterpret_borrow<py::dict>(in_dims)) {
    dict.insert(key.cast<std::string>(), in_dims_from(py::reinterpret_borrow<py::object>(value)));
  }
  return dict;
}

py::object to_python(const InDims& in_dims) {
  if (in_dims.isNone()) return py::none();
  if (in_dims.isInt()) return py::int_(in_dims.toInt());
  if (in_dims.isTuple()) {
    py::list elements;
    for (const auto& element : in_dims.toTupleRef().elements()) elements.append(to_python(element));
    return py::tuple(elements);
  }
  py::dict dict;
  for (const auto& item : in_dims.toGenericDict()) dict[py::str(item.key().toStringRef())] = to_python(item.value());
  return dict;
}

}  // namespace it3::python
