#include <pybind11/functional.h>

#include <it3/backend/layout.h>
#include <it3/embedder.h>

#include "bindings.h"
#include "translated.h"

namespace it3::python {

void bind_embedder(py::module_& module) {
  py::class_<Layout>(
      module, "Layout",
      "Which dimensions of a tensor are its samples and its channels.\n\n"
      "Examples\n--------\n"
      ">>> layout = it3.Layout(channel_dim=-1, batch_dim=1)  # (positions, samples, channels)\n"
      ">>> layout.channel_of(3), layout.batch_of(3)\n"
      "(2, 1)\n")
      .def(
          py::init([](std::optional<std::int64_t> channel_dim, std::int64_t batch_dim) {
            return Layout{channel_dim, batch_dim};
          }),
          py::arg("channel_dim") = py::none(), py::arg("batch_dim") = 0)
      .def_readonly("channel_dim", &Layout::channel_dim)
      .def_readonly("batch_dim", &Layout::batch_dim)
      .def(
          "channel_of", translated([](const Layout& layout, std::int64_t rank) { return layout.channel_of(rank); }),
          py::arg("rank"), "The channel dimension of a tensor of so many dimensions, counted from 0.")
      .def("batch_of", &Layout::batch_of, py::arg("rank"), "The batch dimension of a tensor of so many dimensions.")
      .def(
          "__eq__",
          [](const Layout& a, const py::object& b) { return py::isinstance<Layout>(b) && a == b.cast<Layout>(); })
      .def(
          "__hash__",
          [](const Layout& layout) { return py::hash(py::make_tuple(layout.channel_dim, layout.batch_dim)); })
      .def(
          "__repr__",
          [](const Layout& layout) {
            const auto channel = layout.channel_dim ? std::to_string(*layout.channel_dim) : "None";
            return "Layout(channel_dim=" + channel + ", batch_dim=" + std::to_string(layout.batch_dim) + ")";
          })
      .def(
          py::pickle(
              [](const Layout& layout) { return py::make_tuple(layout.channel_dim, layout.batch_dim); },
              [](const py::tuple& state) {
                return Layout{state[0].cast<std::optional<std::int64_t>>(), state[1].cast<std::int64_t>()};
              }));

  py::class_<LayerKind>(module, "LayerKind", "What the kind of a layer of torch.nn tells of its output.")
      .def_readwrite("channel_dim", &LayerKind::channel_dim)
      .def_readonly("channels", &LayerKind::channels)
      .def_readonly("takes_sequences", &LayerKind::takes_sequences)
      .def_readonly("batch_first", &LayerKind::batch_first);

  py::class_<Origin>(module, "Origin", "The layers that a tensor comes from.")
      .def(
          py::init([](std::vector<LayerKind> inside, std::vector<LayerKind> before, bool is_direct) {
            return Origin{std::move(inside), std::move(before), is_direct};
          }),
          py::arg("inside"), py::arg("before"), py::arg("is_direct"))
      .def_readonly("inside", &Origin::inside)
      .def_readonly("before", &Origin::before)
      .def_readonly("is_direct", &Origin::is_direct);

  module.def(
      "kind_of_layer",
      [](const std::string& class_name, const std::function<std::optional<at::Tensor>(const std::string&)>& tensor,
         std::optional<bool> batch_first) {
        const auto get = [&](const std::string& name) { return tensor(name).value_or(at::Tensor()); };
        return kind_of_layer(class_name, get, batch_first);
      },
      py::arg("class_name"), py::arg("tensor"), py::arg("batch_first") = py::none(),
      "The kind of a layer by its class and its tensors, which a function gives by their names.");
  module.def(
      "is_elementwise", &is_elementwise, py::arg("class_name"),
      "Whether a layer of this class works on each value by itself.");
  module.def(
      "channel_dim_of_kind", &channel_dim_of_kind, py::arg("class_name"),
      "The channel dimension that a layer of this class works on; None if it works on any.");

  module.def(
      "make_embedder_weights",
      translated([](const at::Tensor& prediction, const at::Tensor& features, const Layout& prediction_layout,
                    const Layout& features_layout) {
        const auto w = make_embedder_weights(prediction, features, prediction_layout, features_layout);
        return std::make_tuple(w.weight1, w.bias1, w.weight2, w.bias2);
      }),
      py::arg("prediction"), py::arg("features"), py::arg("prediction_layout"), py::arg("features_layout"),
      "New weights of the default embedder for these two tensors: (F, C), (F), (F, F), (F).");

  module.def(
      "embed",
      translated([](const at::Tensor& prediction, const at::Tensor& features, const std::vector<at::Tensor>& weights,
                    std::int64_t extra_channels, const Layout& prediction_layout, const Layout& features_layout) {
        EmbedderWeights all;
        if (extra_channels == 0) all = {weights.at(0), weights.at(1), weights.at(2), weights.at(3)};
        all.extra_channels = extra_channels;
        return embed(prediction, features, all, prediction_layout, features_layout);
      }),
      py::arg("prediction"), py::arg("features"), py::arg("weights"), py::arg("extra_channels"),
      py::arg("prediction_layout"), py::arg("features_layout"),
      "The default embedder: LeakyReLU(Linear(LeakyReLU(Linear(prediction)))) over channels, by (weight1, bias1, "
      "weight2, bias2); with extra channels and no weights, the prediction in these, the last.");

  module.def(
      "broadcast_add", translated(broadcast_add), py::arg("features"), py::arg("embedding"), py::arg("features_layout"),
      "features + embedding, the embedding spread over the dimensions that it lacks.");
}

}  // namespace it3::python
