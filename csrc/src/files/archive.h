#pragma once

#include <istream>
#include <memory>
#include <optional>
#include <string>

#include <ATen/core/ivalue.h>
#include <torch/csrc/jit/serialization/unpickler.h>

#include <it3/backend/export.h>

namespace caffe2::serialize {
class PyTorchStreamReader;
}

namespace it3::detail {

/// A file of records as torch.save(), torch.jit.save() and engine.save() write it, which torch reads without looking at
/// its checksums, and believing what it says of sizes. Here both are checked, before anything in it is used.
///
/// All members raise c10::ValueError, which says what is wrong with the file, but not which file it is.
class IT3_API Archive {
 public:
  /// Reads all of it once, and compares each record with its checksum. Raises also for records that unpack to far more
  /// than the file is long, and for code that torch cannot read without harm, see nesting.h.
  explicit Archive(std::unique_ptr<std::istream> file);
  Archive(const Archive&) = delete;
  Archive& operator=(const Archive&) = delete;
  ~Archive();

  bool has(const std::string& record) const;
  std::string read(const std::string& record) const;

  /// What is pickled in the record NAME.pkl, its tensors being in the records NAME/0 and so on. Without objects.
  ///
  /// @param on_their_devices  whether tensors go where they were when they were saved, rather than to the CPU
  c10::IValue unpickle(const std::string& name, bool on_their_devices = false) const;

  /// Whether a TorchScript module can be read: all its tensors, and what else is pickled. Runs none of its code.
  void check_module() const;

 private:
  c10::IValue unpickle(
      const std::string& name,
      torch::jit::TypeResolver type_named,
      torch::jit::ObjLoader object_of,
      std::optional<c10::Device> device) const;

  std::unique_ptr<std::istream> file_;
  std::unique_ptr<caffe2::serialize::PyTorchStreamReader> reader_;
};

}  // namespace it3::detail
