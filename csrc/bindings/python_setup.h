#pragma once

#include <memory>
#include <optional>
#include <string>

#include <torch/csrc/utils/pybind.h>

#include <it3/backend/engine_setup.h>

#include "runners.h"

namespace it3::python {

/// Attributes of an it3.IT3Engine, the face, that say what it is made of.
struct Attributes {
  py::object model, layer, output, layer_output;
  py::object embedder, combine_fn, distance_fn, neutral, feedback, in_dims, given_layouts;

  /// As they are now.
  static Attributes of(const py::object& face);

  /// Whether they are the same objects or, of names and places in outputs, equal ones.
  bool are(const Attributes& others) const;
  bool have_network_of(const Attributes& others) const;
  /// Whether channels and samples are where they are for these.
  bool have_layouts_of(const Attributes& others) const;
};

/// The module in torch.compile's wrapper, which would ignore the hook.
py::object without_compile(const py::object& model);

/// Where the channels and samples are for some attributes: what copies of an engine keep.
struct KnownLayouts {
  Attributes attributes;
  Layouts layouts;
};

/// The attributes of a face at one moment, and what is made of them. It does not change; a call keeps to one.
struct PythonSetup {
  /// The first one.
  ///
  /// @param known  of the engine that this one is a copy of, if it was looked at
  /// Raises what the parts raise that cannot be made.
  PythonSetup(Attributes attributes, bool learned_probabilities, const std::optional<KnownLayouts>& known);

  /// One that keeps of an earlier one what is the same.
  PythonSetup(const Attributes& attributes, bool learned_probabilities, const PythonSetup& earlier);

  /// One that is made of the same, but was looked at, or has other adapted weights to keep.
  PythonSetup(const PythonSetup& other, EngineSetup changed);

  Attributes attributes;
  std::string layer_name;  // in the model without torch.compile's wrapper
  std::shared_ptr<Runners> runners;
  EngineSetup core;  // borrows functions from the attributes

 private:
  PythonSetup(Attributes attributes, bool learned_probabilities, std::shared_ptr<Runners> known_runners);
};

}  // namespace it3::python
