#pragma once

#include <functional>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <it3/error_text.h>
#include <it3/it3.h>

#include "batches.h"
#include "checkpoint.h"
#include "end_request.h"
#include "files/input_notes.h"
#include "report.h"
#include "support/nearest_name.h"
#include "tensor_files.h"

namespace it3::apps {

/// The files that are written.
struct Outputs {
  TensorFile predictions;
  std::optional<TensorFile> uncertainty;

  /// Writes all, before commit() has any of them appear.
  void finish();
  void commit();

  /// See TensorFile.
  void go_on_from(const Checkpoint& checkpoint);
  void commit_what_is_left();
};

/// An engine whose inputs come from files. Errors say what the engine takes.
class EngineOnFiles {
 public:
  explicit EngineOnFiles(const SavedEngine& saved);

  const Engine& engine() const { return engine_; }

  /// See Engine::calibrate(), of which this is one for many batches.
  void calibrate(Batches batches, double quantile);

  /// @param done  of the batches that were adapted before
  /// @param after_batch  what is done after each batch, with the results so far
  Results adapt(Batches& batches, Outputs& outputs, Results done, const std::function<void(Results&)>& after_batch);

  /// What has been done so far, and back, in a like engine.
  /// @param outputs  null where they are complete
  Checkpoint checkpoint(const Results& results, Outputs* outputs) const;
  void go_on_from(const Checkpoint& checkpoint, Batches& batches);

  /// Writes the network that the last batch made.
  void save_adapted(const std::string& path) const;

 private:
  template <typename Work>
  std::invoke_result_t<Work, const Inputs&> call(const Inputs& inputs, const Work& work) {
    try {
      return work(inputs);
    } catch (const EndRequested&) {
      throw;
    } catch (const std::exception& error) {
      TORCH_CHECK(
          false, error_text(error), " (the inputs are ", detail::join(detail::notes_of(inputs)),
          "; the engine was saved with the inputs ", detail::join(saved_with_), ")");
    }
  }

  Engine engine_;
  c10::Device device_;
  std::vector<at::Tensor> buffers_of_functions_;  // which the engine's own functions may change
  std::vector<std::string> saved_with_;
  std::optional<Adaptation> last_;
};

}  // namespace it3::apps
