#include <it3/backend/plain_backward.h>
#include <it3/neutral.h>
#include <it3/options.h>
#include <it3/training_recipe.h>

#include "bindings.h"
#include "options_from_python.h"
#include "translated.h"

namespace it3::python {
namespace {

std::optional<std::string> drawn_for_of(const TrainingRecipe& recipe) {
  return recipe.drawn_for ? std::optional(std::string(to_string(*recipe.drawn_for))) : std::nullopt;
}

/// What a recipe is made from, in the order of the arguments.
py::tuple values_of(const TrainingRecipe& recipe) {
  return py::make_tuple(
      std::string(to_string(recipe.first_pass)), std::string(to_string(recipe.second_pass)), recipe.weight,
      recipe.target_probability, drawn_for_of(recipe), recipe.noise);
}

TrainingRecipe recipe_from(
    const std::string& first_pass,
    const std::string& second_pass,
    double weight,
    std::optional<double> target_probability,
    const std::optional<std::string>& drawn_for,
    double noise) {
  TrainingRecipe recipe{first_signal_by_name(first_pass),
                        second_pass_by_name(second_pass),
                        weight,
                        target_probability,
                        std::nullopt,
                        noise};
  if (drawn_for) recipe.drawn_for = drawn_for_by_name(*drawn_for);
  recipe.validate();
  return recipe;
}

void bind_training_recipe(const py::module_& module) {
  py::class_<TrainingRecipe>(
      module, "TrainingRecipe",
      "What the two passes of a training step are fed with, and how the second term of the loss counts: y1 is "
      "compared\n"
      "with the target, where one is given, whatever is fed back. Files of engines do not keep it.\n\n"
      "Parameters\n----------\n"
      "first_pass\n"
      "    What the first pass, y0, is fed with. \"neutral\": as at test time, the engine's neutral signal, or "
      "nothing\n"
      "    where it has none. \"drawn\": the target with ``target_probability``, else that, as in the authors' "
      "programs.\n"
      "second_pass\n"
      "    What the second pass, y1, is fed with. \"target\": y1 = f(x | y), as in ZigZag's loss (IT3, arXiv "
      "2410.04201,\n"
      "    Eq. 1). \"prediction\": y1 = f(x | y0), as at test time, with gradients through y0. "
      "\"detached_prediction\":\n"
      "    the same with y0 as a constant. \"drawn\": the target with ``target_probability``, else y0 as a constant.\n"
      "    \"none\": there is no second pass, and ``loss_ttt`` is 0.\n"
      "weight\n"
      "    ``loss_ttt`` is multiplied by it.\n"
      "target_probability\n"
      "    Of \"drawn\". None: 0.5.\n"
      "drawn_for\n"
      "    Of \"drawn\": whether each \"sample\" is drawn for, or the whole \"batch\". None: each sample; the batch "
      "for\n"
      "    the first pass without a neutral signal.\n"
      "noise\n"
      "    Standard deviation of Gaussian noise on what is fed back, in its units.\n\n"
      "Raises\n------\n"
      "ValueError\n"
      "    For other names, numbers out of range, and for what says more about a draw where none is made.\n\n"
      "Examples\n--------\n"
      ">>> recipe = it3.TrainingRecipe(second_pass=\"detached_prediction\", weight=0.5)\n"
      ">>> engine = it3.IT3Engine(model, \"0\", training_recipe=recipe)\n")
      .def(
          py::init(translated(recipe_from)), py::kw_only(), py::arg("first_pass") = "neutral",
          py::arg("second_pass") = "target", py::arg("weight") = 1.0, py::arg("target_probability") = py::none(),
          py::arg("drawn_for") = py::none(), py::arg("noise") = 0.0)
      .def_property_readonly("first_pass", [](const TrainingRecipe& r) { return std::string(to_string(r.first_pass)); })
      .def_property_readonly(
          "second_pass", [](const TrainingRecipe& r) { return std::string(to_string(r.second_pass)); })
      .def_readonly("weight", &TrainingRecipe::weight)
      .def_readonly("target_probability", &TrainingRecipe::target_probability)
      .def_property_readonly("drawn_for", &drawn_for_of)
      .def_readonly("noise", &TrainingRecipe::noise)
      .def(
          "__eq__",
          [](const TrainingRecipe& a, const py::object& b) {
            return py::isinstance<TrainingRecipe>(b) && a == b.cast<TrainingRecipe>();
          })
      .def("__hash__", [](const TrainingRecipe& recipe) { return py::hash(values_of(recipe)); })
      .def(
          "__repr__",
          [](const TrainingRecipe& recipe) {
            return py::str(
                       "TrainingRecipe(first_pass={!r}, second_pass={!r}, weight={!r}, target_probability={!r}, "
                       "drawn_for={!r}, "
                       "noise={!r})")
                .format(*values_of(recipe));
          })
      .def(py::pickle(&values_of, [](const py::tuple& state) {
        return recipe_from(
            state[0].cast<std::string>(), state[1].cast<std::string>(), state[2].cast<double>(),
            state[3].cast<std::optional<double>>(), state[4].cast<std::optional<std::string>>(),
            state[5].cast<double>());
      }));
}

}  // namespace

void bind_options(py::module_& module) {
  bind_training_recipe(module);
  py::class_<OptionInfo>(module, "OptionInfo", "What is known of an option, for people and for other languages.")
      .def_readonly("name", &OptionInfo::name)
      .def_readonly("type", &OptionInfo::type, "As Python writes it.")
      .def_readonly("accepted", &OptionInfo::accepted, "In words.")
      .def_readonly("default_text", &OptionInfo::default_text, "As Python writes it.")
      .def_readonly("documentation", &OptionInfo::documentation);
  module.def(
      "use_plain_backward", &use_plain_backward, py::arg("on"),
      "Whether plain autograd graphs are run backwards without torch's engine, as they are from the start.");
  module.def("option_infos", &option_infos, "All options, in the order in which they are documented.");
  module.def(
      "options_of", translated([](const py::dict& options) { return to_python(options_from(options)); }),
      py::arg("options"),
      "All options that are set, by default or by these. Raises what the core would raise for them.");
  module.def(
      "overridden", translated(overridden), py::arg("options"), py::arg("others"),
      "Options with others in place of some. What says more about a choice that these change goes with that choice.");

  py::class_<RandomOneHot>(
      module, "RandomOneHot",
      "A neutral signal: one of the classes, all as probable, drawn for each call, sample and position.\n\n"
      "Examples\n--------\n"
      ">>> it3.RandomOneHot()\n"
      "RandomOneHot()\n")
      .def(py::init<>())
      .def("__repr__", [](const RandomOneHot&) { return "RandomOneHot()"; })
      .def(
          py::pickle(
              [](const RandomOneHot&) { return py::make_tuple(); }, [](const py::tuple&) { return RandomOneHot(); }));
  py::class_<DrawnLabels>(
      module, "DrawnLabels",
      "A neutral signal: one of some labels, all as probable, drawn for each call and sample.\n\n"
      "Parameters\n----------\n"
      "labels\n"
      "    (N, ...): class indices, or labels in the shape of a prediction, samples first; such as those of "
      "training.\n\n"
      "Raises\n------\n"
      "ValueError\n"
      "    For labels that are not finite real numbers, or none.\n\n"
      "Examples\n--------\n"
      ">>> it3.DrawnLabels(torch.tensor([0.5, 2.0, 1.5]))\n"
      "DrawnLabels(3 labels)\n")
      .def(
          py::init(translated([](const at::Tensor& labels) {
            DrawnLabels drawn{labels.detach()};
            check_neutral(drawn);
            return drawn;
          })),
          py::arg("labels"))
      .def_property_readonly("labels", [](const DrawnLabels& drawn) { return drawn.labels; })
      .def(
          "__repr__",
          [](const DrawnLabels& drawn) { return c10::str("DrawnLabels(", drawn.labels.size(0), " labels)"); })
      .def(
          py::pickle(
              [](const DrawnLabels& drawn) { return py::make_tuple(drawn.labels); },
              [](const py::tuple& state) { return DrawnLabels{state[0].cast<at::Tensor>()}; }));
}

}  // namespace it3::python
