#include "tensor_files.h"

#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <type_traits>
#include <vector>

#include <ATen/ATen.h>
#include <c10/util/Exception.h>
#include <torch/csrc/jit/serialization/pickle.h>
#include <xtensor/xadapt.hpp>
#include <xtensor/xarray.hpp>
#include <xtensor/xnpy.hpp>

namespace it3::apps {
namespace {

bool is_npy(const std::string& path) { return path.ends_with(".npy"); }

/// The array if its elements are of this type.
template <typename Element>
std::optional<at::Tensor> read_npy_of(std::ifstream& file, const std::string& path) {
  file.clear();
  file.seekg(0);
  xt::xarray<Element> array;  // row-major, whatever the file's order
  try {
    array = xt::load_npy<Element>(file);
  } catch (const std::runtime_error&) {  // of another type, or no .npy file
    return std::nullopt;
  }
  TORCH_CHECK(!file.fail(), path, " is truncated");
  const std::vector<std::int64_t> shape(array.shape().begin(), array.shape().end());
  return at::from_blob(array.data(), shape, c10::CppTypeToScalarType<Element>::value).clone();
}

template <typename... Elements>
at::Tensor read_npy(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::optional<at::Tensor> tensor;
  const auto try_elements = [&]<typename Element>(std::type_identity<Element>) {
    if (!tensor) tensor = read_npy_of<Element>(file, path);
  };
  (try_elements(std::type_identity<Elements>{}), ...);
  TORCH_CHECK(
      tensor.has_value(), path,
      " is not a .npy file of booleans, integers, float32 or float64 in this machine's byte order; convert it with "
      "numpy.save");
  return *tensor;
}

template <typename Element>
void write_npy_of(const at::Tensor& tensor, const std::string& path) {
  const std::vector<std::size_t> shape(tensor.sizes().begin(), tensor.sizes().end());
  xt::dump_npy(
      path, xt::adapt(tensor.data_ptr<Element>(), static_cast<std::size_t>(tensor.numel()), xt::no_ownership(), shape));
}

void write_npy(const at::Tensor& given, const std::string& path) {
  const at::Tensor tensor =
      (at::isReducedFloatingType(given.scalar_type()) ? given.to(at::kFloat) : given).contiguous();
  switch (tensor.scalar_type()) {
    case at::kFloat: return write_npy_of<float>(tensor, path);
    case at::kDouble: return write_npy_of<double>(tensor, path);
    case at::kLong: return write_npy_of<std::int64_t>(tensor, path);
    default: TORCH_CHECK(false, "a .npy file cannot hold ", tensor.scalar_type(), "; write a .pt file");
  }
}

}  // namespace

void check_extension(const std::string& path) {
  TORCH_CHECK_VALUE(is_npy(path) || path.ends_with(".pt"), path, " must end in .npy or .pt");
}

c10::IValue read_file(const std::string& path) {
  TORCH_CHECK(std::filesystem::exists(path), "there is no file ", path);
  if (is_npy(path)) {
    return read_npy<float, double, std::int64_t, std::int32_t, std::uint8_t, bool, std::int16_t, std::int8_t>(path);
  }
  std::ifstream file(path, std::ios::binary);
  const std::vector<char> bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  try {
    return torch::jit::pickle_load(bytes);
  } catch (const std::exception&) {
    TORCH_CHECK(false, path, " is not a file of tensors that torch.save wrote, or is damaged");
  }
}

TensorFile::TensorFile(std::string path, const at::Tensor& given)
    : path_(std::move(path)), partial_(path_ + ".partial") {
  const at::Tensor tensor = given.detach().cpu();
  try {
    if (is_npy(path_)) {
      write_npy(tensor, partial_);
    } else {
      const std::vector<char> bytes = torch::jit::pickle_save(tensor);
      std::ofstream(partial_, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    }
    TORCH_CHECK(std::filesystem::exists(partial_), "nothing can be written there");
  } catch (const std::exception& error) {
    std::error_code ignored;
    std::filesystem::remove(partial_, ignored);
    const auto* const torch_error = dynamic_cast<const c10::Error*>(&error);
    TORCH_CHECK(
        false, path_, " cannot be written: ", torch_error ? torch_error->what_without_backtrace() : error.what());
  }
}

TensorFile::~TensorFile() {
  std::error_code ignored;
  std::filesystem::remove(partial_, ignored);
}

void TensorFile::commit() { std::filesystem::rename(partial_, path_); }

}  // namespace it3::apps
