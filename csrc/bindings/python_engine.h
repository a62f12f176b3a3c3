#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>

#include <torch/csrc/utils/pybind.h>

#include <it3/backend/calibration.h>
#include <it3/backend/engine_core.h>
#include <it3/backend/saved_engine.h>
#include <it3/backend/saved_programs.h>

#include "options_from_python.h"
#include "python_setup.h"

namespace it3::python {

/// The engine of the core behind an it3.IT3Engine, its face, whose attributes say what it is made of.
///
/// Its members need the GIL, and give it up while the core computes. Each call is made with a setup that setup_of()
/// gave.
class PythonEngine {
 public:
  using Setup = std::shared_ptr<PythonSetup>;

  /// @param is_trained  whether the embedder was trained elsewhere
  explicit PythonEngine(bool is_trained) : core(is_trained) {}

  /// What the face is made of now; what is made of its attributes is kept while they are the same.
  Setup setup_of(const py::object& face);

  /// See it3::look_at_first(). Where the model's layers do not say where predictions and features come from, Python
  /// does.
  Setup look_at_first(
      const Setup& setup,
      const py::object& inputs,
      const std::optional<Origin>& of_prediction,
      const std::optional<Origin>& of_features);

  Adaptation adapt(const Setup& setup, const py::object& inputs, const py::dict& options, bool with_details);

  /// (y0, loss_ttt), the two terms of ZigZag's training loss.
  std::pair<at::Tensor, at::Tensor> losses(
      const Setup& setup,
      const py::object& inputs,
      const std::optional<at::Tensor>& target,
      const TrainingRecipe& recipe);

  /// Lets calls with a setup, while the face's attributes are the same, be evaluated by programs; null for none.
  void use(const Setup& setup, std::shared_ptr<const Compiled> compiled);

  /// The same by programs from a file, for calls of the kind of these inputs. Raises c10::Error where they do not fit.
  ///
  /// @param of_functions, have_functions_changed  see SavedPrograms::bind()
  void use(
      const Setup& setup,
      const py::object& inputs,
      const SavedPrograms& programs,
      const std::map<std::string, at::Tensor>& of_functions,
      std::function<bool()> have_functions_changed);

  /// Writes the engine, whose model and functions are TorchScript modules or the default ones, to a file.
  void save(const Setup& setup, it3::detail::NewFile& file, const py::object& inputs, const py::dict& options) const;

  /// What a file holds of the engine, around a program of torch.export, beside that program and the packages of the
  /// compiled ones; see description_of().
  py::bytes description(
      const Setup& setup, const py::object& inputs, const py::dict& options, const SavedPrograms& programs) const;

  /// See Online. The model is an eager or a TorchScript module.
  void reset(const py::object& model);
  Drift drift(const py::object& model);

  /// One that knows what this one does, but has no adapted weights to keep or to go back to.
  std::shared_ptr<PythonEngine> sibling() const;

  /// For pickling: what was learnt, settled and kept, as of the last keep_up().
  py::tuple state() const;
  static std::shared_ptr<PythonEngine> from_state(const py::tuple& state);

  /// Forgets what belongs to attributes that the face has no more. To be called before state(), and with the new face
  /// behind from_state(), whose attributes the state is then taken to belong to.
  void keep_up(const py::object& face);

  /// For Python's garbage collector: calls `visit` with what only this engine owns.
  int traverse(visitproc visit, void* arg) const;
  void clear();

  EngineCore core;

 private:
  /// What is kept of adapted weights is that of this model. Another one has none, and nothing to go back to.
  void set_model(const py::object& model);

  RecentOptions recent_options_;
  Setup setup_;                        // of the last call
  std::optional<KnownLayouts> known_;  // before the first one
  std::optional<Layouts> restored_;    // before keep_up() tells of which attributes
  py::object model_;                   // whose adapted weights are kept
  std::shared_ptr<Online> online_ = std::make_shared<Online>();
};

/// See it3::uncertainty().
at::Tensor uncertainty_of(const PythonEngine::Setup& setup, const py::object& inputs, const py::dict& options);

/// See Calibration.
void add_to(
    Calibration& calibration, const PythonEngine::Setup& setup, const py::object& inputs, const py::dict& options);

/// What an engine compares predictions with after adapting, as a tuple or None, see to_ivalue(); and back.
py::object range_to_python(const std::optional<PredictionRange>& range);
std::optional<PredictionRange> range_from_python(const py::object& range);

/// How a call would run, whether it is replayed as a CUDA graph, and where channels and samples are.
Explanation explain(const PythonEngine::Setup& setup, const py::object& inputs, const py::dict& options);

}  // namespace it3::python
