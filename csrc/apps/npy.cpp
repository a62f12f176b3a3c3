#include "npy.h"

#include <algorithm>
#include <array>
#include <bit>
#include <string_view>

#include <ATen/ATen.h>
#include <c10/util/Exception.h>

#include <it3/error_text.h>

#include "files/open_file.h"
#include "npy_header.h"

namespace it3::apps {
namespace {

constexpr std::string_view magic = "\x93NUMPY";
constexpr std::size_t most_dims = 64;  // NumPy's own limit

/// Types of elements: NumPy's name, and torch's for what is in the file and for what is read.
struct Element {
  std::string_view name;
  c10::ScalarType stored;
  c10::ScalarType read;
};
constexpr std::array<Element, 13> elements = {{
    {"f2", at::kHalf, at::kHalf},
    {"f4", at::kFloat, at::kFloat},
    {"f8", at::kDouble, at::kDouble},
    {"c8", at::kComplexFloat, at::kComplexFloat},
    {"c16", at::kComplexDouble, at::kComplexDouble},
    {"b1", at::kByte, at::kBool},  // any byte but 0 is true
    {"i1", at::kChar, at::kChar},
    {"i2", at::kShort, at::kShort},
    {"i4", at::kInt, at::kInt},
    {"i8", at::kLong, at::kLong},
    {"u1", at::kByte, at::kByte},
    {"u2", at::kUInt16, at::kInt},
    {"u4", at::kUInt32, at::kLong},
}};

constexpr char native_order = std::endian::native == std::endian::little ? '<' : '>';

/// The element of a type as NumPy writes it. Raises c10::ValueError if there is none.
const Element& element_of(const std::string& descr) {
  constexpr std::string_view accepted =
      "; accepted are bool, int8 to int64, uint8 to uint32, float16 to float64, complex64 and complex128";
  TORCH_CHECK_VALUE(!descr.starts_with('['), "it is a structured array", accepted);
  TORCH_CHECK_VALUE(
      descr.size() > 1 && std::string_view("<>=|").find(descr.front()) != std::string_view::npos,
      "its header is damaged");
  const char order = descr.front();
  const std::string_view name = std::string_view(descr).substr(1);
  const auto* const found =
      std::find_if(elements.begin(), elements.end(), [&](const Element& element) { return element.name == name; });
  TORCH_CHECK_VALUE(found != elements.end(), "its elements are of NumPy's type '", descr, "'", accepted);
  const bool has_order = c10::elementSize(found->stored) > 1;
  TORCH_CHECK_VALUE(
      !has_order || order == native_order || order == '=', "its elements are of NumPy's type '", descr,
      "', of another byte order than this machine's; write it anew by numpy.save(path, "
      "x.astype(x.dtype.newbyteorder('=')))");
  return *found;
}

/// Reads the length of a header and the header.
std::string header_in(std::istream& file, std::int64_t size) {
  std::array<char, 8> begin = {};
  TORCH_CHECK_VALUE(
      file.read(begin.data(), begin.size()) && std::string_view(begin.data(), magic.size()) == magic,
      "it is no .npy file, as numpy.save writes it");
  const int version = static_cast<unsigned char>(begin[6]);
  const int minor = static_cast<unsigned char>(begin[7]);
  TORCH_CHECK_VALUE(
      version >= 1 && version <= 3 && minor == 0, "it is of version ", version, ".", minor,
      " of NumPy's format; accepted are 1.0, 2.0 and 3.0");
  std::array<unsigned char, 4> length_bytes = {};
  file.read(reinterpret_cast<char*>(length_bytes.data()), version == 1 ? 2 : 4);
  std::uint64_t length = 0;
  for (std::size_t i = 4; i > 0; --i) length = length << 8U | length_bytes.at(i - 1);
  TORCH_CHECK_VALUE(
      file.good() && length <= static_cast<std::uint64_t>(size - file.tellg()), "it is cut off in its header");
  std::string text(length, '\0');
  file.read(text.data(), static_cast<std::streamsize>(length));
  TORCH_CHECK_VALUE(file.good(), "it is cut off in its header");
  return text;
}

/// The bytes of an array, at most one more than a file can have.
std::int64_t bytes_of(const std::vector<std::int64_t>& shape, std::size_t element, std::int64_t available) {
  if (std::find(shape.begin(), shape.end(), 0) != shape.end()) return 0;
  auto bytes = static_cast<std::int64_t>(element);
  for (const std::int64_t size : shape) {
    if (bytes > available / size) return available + 1;
    bytes *= size;
  }
  return bytes;
}

/// Where the elements of a part of an array lie: `runs` times `length` bytes, `distance` bytes apart.
struct Runs {
  std::int64_t count, first, length, distance;
};

Runs runs_of(
    const std::vector<std::int64_t>& shape,
    std::size_t element,
    std::size_t dim,
    std::int64_t begin,
    std::int64_t end) {
  std::int64_t outer = 1;
  auto inner = static_cast<std::int64_t>(element);
  for (std::size_t i = 0; i < dim; ++i) outer *= shape[i];
  for (std::size_t i = dim + 1; i < shape.size(); ++i) inner *= shape[i];
  return {outer, begin * inner, (end - begin) * inner, shape[dim] * inner};
}

/// With the dimensions in the opposite order.
at::Tensor reversed(const at::Tensor& tensor) {
  std::vector<std::int64_t> dims;
  for (std::int64_t i = tensor.dim() - 1; i >= 0; --i) dims.push_back(i);
  return tensor.permute(dims);
}

}  // namespace

NpyReader::NpyReader(const std::string& path) : path_(path), file_(detail::open_file(path)) {
  try {
    const std::int64_t size = file_->seekg(0, std::ios::end).tellg();
    file_->seekg(0);
    NpyHeader header = parse_npy_header(header_in(*file_, size));
    data_ = file_->tellg();
    descr_ = header.descr;
    is_fortran_ = header.is_fortran;
    shape_ = std::move(header.shape);
    const auto element = c10::elementSize(element_of(descr_).stored);
    TORCH_CHECK_VALUE(
        shape_.size() <= most_dims, "it has ", shape_.size(), " dimensions; at most ", most_dims, " can be");
    const std::int64_t available = size - data_, bytes = bytes_of(shape_, element, available);
    TORCH_CHECK_VALUE(
        bytes <= available, "it is cut off: ", available, " bytes are left for an array of the shape ",
        at::IntArrayRef(shape_));
    TORCH_CHECK_VALUE(
        bytes == available, "it goes on for ", available - bytes, " bytes behind an array of the shape ",
        at::IntArrayRef(shape_), "; it must hold one array");
  } catch (const std::exception& found) {
    TORCH_CHECK(false, path, " cannot be read: ", error_text(found));
  }
}

at::Tensor NpyReader::read() { return shape_.empty() ? read(0, 0, 1) : read(0, 0, shape_[0]); }

at::Tensor NpyReader::read(std::int64_t dim, std::int64_t begin, std::int64_t end) {
  const Element& element = element_of(descr_);
  std::vector<std::int64_t> shape = shape_.empty() ? std::vector<std::int64_t>{1} : shape_;
  if (is_fortran_) {
    std::reverse(shape.begin(), shape.end());
    dim = static_cast<std::int64_t>(shape.size()) - 1 - dim;
  }
  const Runs runs = runs_of(shape, c10::elementSize(element.stored), static_cast<std::size_t>(dim), begin, end);
  shape[static_cast<std::size_t>(dim)] = end - begin;
  at::Tensor part = at::empty(shape, element.stored);
  auto* to = static_cast<char*>(part.mutable_data_ptr());
  for (std::int64_t i = 0; i < runs.count; ++i, to += runs.length) {
    file_->seekg(data_ + runs.first + i * runs.distance);
    TORCH_CHECK(
        file_->read(to, runs.length).good(), path_, " cannot be read further: it was cut off while it was being read");
  }
  if (is_fortran_) part = reversed(part);
  if (shape_.empty()) part = part.squeeze(0);
  return element.read == at::kBool ? part.ne(0) : part.to(element.read).contiguous();
}

NpyWriter::NpyWriter(detail::NewFile& file, c10::ScalarType dtype, std::vector<std::int64_t> shape)
    : file_(file), dtype_(at::isReducedFloatingType(dtype) ? at::kFloat : dtype), shape_(std::move(shape)) {
  const auto* const element =
      std::find_if(elements.begin(), elements.end(), [&](const Element& e) { return e.read == dtype_; });
  TORCH_CHECK(
      element != elements.end(), "cannot write '", file_.path(), "': a .npy file cannot hold ", dtype_,
      "; write a .pt file");
  std::string text = to_text({native_order + std::string(element->name), false, shape_});
  constexpr std::size_t before = magic.size() + 4, alignment = 64;
  text.resize((before + text.size() + alignment) / alignment * alignment - before - 1, ' ');
  text += '\n';
  const std::array<char, 4> version_and_length = {
      1, 0, static_cast<char>(text.size() & 0xFFU), static_cast<char>(text.size() >> 8U)};
  file_.write(magic.data(), magic.size());
  file_.write(version_and_length.data(), version_and_length.size());
  file_.write(text.data(), text.size());
  data_ = static_cast<std::int64_t>(before + text.size());
  std::int64_t bytes = static_cast<std::int64_t>(c10::elementSize(dtype_));
  for (const std::int64_t size : shape_) bytes *= size;
  file_.reserve(data_ + bytes);
}

void NpyWriter::write(const at::Tensor& part, std::int64_t dim, std::int64_t begin) {
  const at::Tensor values = part.detach().to(at::kCPU, dtype_).contiguous();
  const auto* from = static_cast<const char*>(values.const_data_ptr());
  if (shape_.empty()) return file_.write_at(data_, from, values.nbytes());
  std::vector<std::int64_t> expected = shape_;
  const auto d = static_cast<std::size_t>(dim);
  const std::int64_t end = begin + values.size(dim);
  expected[d] = end - begin;
  TORCH_CHECK(
      values.sizes() == at::IntArrayRef(expected) && end <= shape_[d], "cannot write '", file_.path(),
      "': a batch gave results of the shape ", values.sizes(), ", which do not fit into an array of the shape ",
      at::IntArrayRef(shape_), " from ", begin, " on; write a .pt file, which takes batches of any size");
  const Runs runs = runs_of(shape_, c10::elementSize(dtype_), d, begin, end);
  for (std::int64_t i = 0; i < runs.count; ++i, from += runs.length) {
    file_.write_at(data_ + runs.first + i * runs.distance, from, static_cast<std::size_t>(runs.length));
  }
}

}  // namespace it3::apps
