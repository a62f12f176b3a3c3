#include "tensor_files.h"

#include <filesystem>
#include <system_error>
#include <utility>

#include <ATen/ATen.h>
#include <c10/util/Exception.h>
#include <torch/csrc/jit/serialization/pickle.h>

#include <it3/error_text.h>

#include "files/archive.h"
#include "files/open_file.h"

namespace it3::apps {

bool is_npy(const std::string& path) { return path.ends_with(".npy"); }

void check_extension(const std::string& path) {
  TORCH_CHECK_VALUE(is_npy(path) || path.ends_with(".pt"), path, " must end in .npy or .pt");
}

c10::IValue read_pt(const std::string& path) {
  auto file = detail::open_file(path);
  try {
    return detail::Archive(std::move(file)).unpickle("data");
  } catch (const std::exception& error) {
    TORCH_CHECK(false, path, " is not a file of tensors that torch.save wrote, or is damaged: ", error_text(error));
  }
}

c10::IValue TensorFile::progress() {
  file_.sync();
  const c10::impl::GenericDict progress(c10::StringType::get(), c10::AnyType::get());
  progress.insert("dim", dim_);
  progress.insert("done", done_);
  progress.insert("bytes", file_.size());
  if (npy_) {
    progress.insert("dtype", static_cast<std::int64_t>(npy_->dtype()));
    progress.insert("shape", npy_->shape());
  } else {
    progress.insert("parts", all_parts());
  }
  return progress;
}

void TensorFile::go_on_from(const c10::IValue& progress) {
  const auto values = progress.toGenericDict();
  dim_ = values.at("dim").toInt();
  done_ = values.at("done").toInt();
  if (!is_npy(file_.path())) return parts_.assign(1, values.at("parts").toTensor());
  TORCH_CHECK(
      file_.size() >= values.at("bytes").toInt(), file_.partial(), ", with the results so far, is gone or has changed");
  const auto shape = values.at("shape").toIntVector();
  if (!shape.empty()) size_ = shape.at(static_cast<std::size_t>(dim_));
  npy_.emplace(file_, static_cast<c10::ScalarType>(values.at("dtype").toInt()), shape);
}

void TensorFile::add(const at::Tensor& part, std::int64_t dim, std::pair<std::int64_t, std::int64_t> share) {
  dim_ = dim;
  if (!is_npy(file_.path())) return parts_.push_back(part.detach().cpu());
  const auto [samples, all_samples] = share;
  const bool is_scalar = part.dim() == 0;
  if (!npy_) {
    std::vector<std::int64_t> shape = part.sizes().vec();
    // As many for each sample as this part has.
    if (!is_scalar) shape[static_cast<std::size_t>(dim)] = size_ = part.size(dim) * all_samples / samples;
    file_.clear();
    npy_.emplace(file_, part.scalar_type(), std::move(shape));
  }
  npy_->write(part, dim, done_);
  if (!is_scalar) done_ += part.size(dim);
}

at::Tensor TensorFile::all_parts() {
  try {
    if (parts_.size() > 1) parts_.assign(1, at::cat(parts_, dim_));
  } catch (const std::exception& error) {
    TORCH_CHECK(
        false, "cannot write '", file_.path(), "': the batches' results do not fit together: ", error_text(error));
  }
  return parts_.front().contiguous();
}

void TensorFile::commit_what_is_left() {
  if (file_.size() > 0) return file_.commit();
  std::error_code ignored;
  TORCH_CHECK(
      std::filesystem::exists(file_.path(), ignored), file_.partial(), ", with all results, is gone, and so is ",
      file_.path(), "; delete the .resume file to begin anew");
}

void TensorFile::finish() {
  if (npy_) {
    TORCH_CHECK(
        done_ == size_, "cannot write '", file_.path(), "': the batches gave ", done_, " results, but ", size_,
        " were expected from the first one; write a .pt file, which takes batches of any size");
  } else {
    const std::vector<char> bytes = torch::jit::pickle_save(all_parts());
    file_.clear();
    file_.write(bytes.data(), bytes.size());
  }
  file_.sync();
}

}  // namespace it3::apps
