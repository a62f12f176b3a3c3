#pragma once

#include <functional>
#include <optional>
#include <string>

#include <torch/csrc/utils/pybind.h>

#include <it3/backend/output_path.h>

namespace it3::python {

/// Which of the tensors that a model, or a layer, returns is meant.
struct OutputChoice {
  std::optional<OutputPath> path;    // where it is
  py::object function = py::none();  // or a function of all that is returned

  bool is_given() const { return path.has_value() || !function.is_none(); }
};

/// @param chosen  None, an index, a key, a tuple or list of these, or, if it `may_be_function`, a function of what is
///                returned. Raises c10::TypeError, with the option's name, for another kind.
OutputChoice output_choice(py::handle chosen, const char* option, bool may_be_function);

/// Whether an object is a tensor, or stands for one.
using IsTensor = std::function<bool(py::handle)>;

/// The tensor that is the prediction in what a model returned. Without a choice, it is the only one there. Raises
/// c10::ValueError, with all tensors by path and shape, if there are several, and for a path that leads nowhere;
/// c10::TypeError if there is none.
py::object chosen_output(py::handle output, const OutputChoice& choice, const IsTensor& is_tensor);
at::Tensor prediction_in(py::handle output, const OutputChoice& choice);

/// What a tensor in an object is replaced with.
using ReplaceObject = std::function<py::object(py::handle)>;

/// The object with the tensor at a path replaced, or, without one, the first tensor in it; the containers around it are
/// copied and keep their types. Raises c10::TypeError if there is no tensor, c10::ValueError if the path leads nowhere.
py::object replace_at(
    py::handle object,
    const std::optional<OutputPath>& path,
    const ReplaceObject& replace,
    const IsTensor& is_tensor,
    const std::string& layer_name);

}  // namespace it3::python
