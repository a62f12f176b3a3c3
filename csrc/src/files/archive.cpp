#include "files/archive.h"

#include <algorithm>
#include <map>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include <ATen/core/class_type.h>
#include <ATen/core/jit_type.h>
#include <c10/util/Exception.h>
#include <caffe2/serialize/inline_container.h>
#include <torch/csrc/jit/api/compilation_unit.h>
#include <torch/csrc/jit/serialization/unpickler.h>

#include <it3/error_text.h>

#include "files/nesting.h"
#include "files/zip_directory.h"
#include "support/crc32.h"
#include "support/tensor_memory.h"

namespace it3::detail {
namespace {

/// Has errors, of torch too, say in one line what is wrong with the file, whose names may have any bytes.
template <typename Work>
auto in_one_line(const Work& work) {
  try {
    return work();
  } catch (const std::exception& error) {
    std::string text = error_text(error);
    std::replace_if(text.begin(), text.end(), [](char c) { return c < ' ' || c > '~'; }, '?');
    TORCH_CHECK_VALUE(false, text);
  }
}

void check_records(
    caffe2::serialize::PyTorchStreamReader& reader,
    const std::map<std::string, std::uint32_t>& checksums,
    std::size_t size) {
  // Code is compressed, to a tenth or so; weights are not.
  const std::size_t limit = std::max<std::size_t>(20 * size, std::size_t{64} << 20U);
  std::size_t total = 0;
  std::map<std::string, std::uint32_t> expected;  // without the folder that all records are in
  for (const auto& [name, checksum] : checksums) expected.emplace(name.substr(name.find('/') + 1), checksum);
  auto records = reader.getAllRecords();
  std::erase_if(records, [](const std::string& record) { return record.empty() || record.ends_with('/'); });
  TORCH_CHECK_VALUE(
      records.size() == checksums.size() && expected.size() == checksums.size(), "its directory is damaged");
  for (const std::string& record : records) {
    const auto listed = expected.find(record);
    TORCH_CHECK_VALUE(listed != expected.end(), "its directory is damaged");
    const std::size_t length = reader.getRecordSize(record);
    total = length <= limit ? total + length : limit + 1;
    TORCH_CHECK_VALUE(
        total <= limit, "its records would take more than ", limit, " bytes, for a file of ", size,
        "; pack it without compression");
    const auto [data, read] = reader.getRecord(record);
    TORCH_CHECK_VALUE(read == length, "its record '", record, "' is cut off");
    TORCH_CHECK_VALUE(
        crc32(data.get(), read) == listed->second, "its record '", record,
        "' does not have its checksum (torch.serialization.set_crc32_options(False) writes none)");
    const std::string_view content(static_cast<const char*>(data.get()), read);
    if (!record.starts_with("code/")) continue;
    if (record.ends_with(".py")) check_code(content);
    if (record.ends_with(".debug_pkl")) check_pickle(content);
  }
}

/// A type by its name: of a container, whose elements may be of anything, or else a class without members.
c10::TypePtr type_of(const c10::QualifiedName& name, const std::shared_ptr<torch::jit::CompilationUnit>& unit) {
  const std::string& text = name.qualifiedName();
  if (text.starts_with("Dict[")) return c10::DictType::create(c10::AnyType::get(), c10::AnyType::get());
  if (text.starts_with("List[")) return c10::ListType::create(c10::AnyType::get());
  return c10::ClassType::create(name, unit);
}

/// The tensors that have the memory of one, which may be sparse.
std::vector<at::Tensor> parts_of(const at::Tensor& tensor) {
  switch (tensor.layout()) {
    case at::kSparse: return {tensor._indices(), tensor._values()};
    case at::kSparseCsr:
    case at::kSparseBsr: return {tensor.crow_indices(), tensor.col_indices(), tensor.values()};
    case at::kSparseCsc:
    case at::kSparseBsc: return {tensor.ccol_indices(), tensor.row_indices(), tensor.values()};
    default: return {tensor};
  }
}

/// Raises unless a tensor lies within its storage, and that within the record that was read into it.
void check_bytes(const at::Tensor& tensor, const std::map<const void*, std::size_t>& sizes) {
  const bool has_bytes = tensor.has_storage() && tensor.is_cpu() && tensor.storage().nbytes() > 0;
  if (!has_bytes) return;
  const auto found = sizes.find(tensor.storage().data());
  const std::size_t size = found == sizes.end() ? 0 : found->second;
  const std::size_t claimed = tensor.storage().nbytes();
  TORCH_CHECK_VALUE(claimed <= size, "one of its tensors has only ", size, " of ", claimed, " bytes");
  TORCH_CHECK_VALUE(
      span_of(tensor).end <= static_cast<std::int64_t>(claimed),
      "one of its tensors reaches beyond the data that the file has for it");
}

}  // namespace

Archive::Archive(std::unique_ptr<std::istream> file) : file_(std::move(file)) {
  in_one_line([&] {
    const auto checksums = checksums_in_zip(*file_);
    const auto size = static_cast<std::size_t>(file_->seekg(0, std::ios::end).tellg());
    file_->seekg(0);
    reader_ = std::make_unique<caffe2::serialize::PyTorchStreamReader>(file_.get());
    check_records(*reader_, checksums, size);
  });
}

Archive::~Archive() = default;

bool Archive::has(const std::string& record) const { return reader_->hasRecord(record); }

std::string Archive::read(const std::string& record) const {
  return in_one_line([&] {
    const auto [data, size] = reader_->getRecord(record);
    return std::string(static_cast<const char*>(data.get()), size);
  });
}

c10::IValue Archive::unpickle(const std::string& name, bool on_their_devices) const {
  const c10::IValue value = unpickle(name, nullptr, nullptr, c10::Device(c10::kCPU));
  return on_their_devices ? unpickle(name, nullptr, nullptr, std::nullopt) : value;
}

void Archive::check_module() const {
  const auto unit = std::make_shared<torch::jit::CompilationUnit>();
  // Classes have code, so that what is made here are objects with the state in their only slot.
  const auto type_named = [&](const c10::QualifiedName& type) { return c10::StrongTypePtr(unit, type_of(type, unit)); };
  const auto object_of = [](const c10::StrongTypePtr& type, c10::IValue state) {
    auto object = c10::ivalue::Object::create(type, 1);
    object->setSlot(0, std::move(state));
    return object;
  };
  for (const char* const name : {"constants", "data"}) unpickle(name, type_named, object_of, c10::Device(c10::kCPU));
}

c10::IValue Archive::unpickle(
    const std::string& name,
    torch::jit::TypeResolver type_named,
    torch::jit::ObjLoader object_of,
    std::optional<c10::Device> device) const {
  const std::string pickle = read(name + ".pkl");
  in_one_line([&] { check_pickle(pickle); });
  std::size_t position = 0;
  const auto read_pickle = [&](char* to, std::size_t size) {
    const std::size_t count = std::min(size, pickle.size() - position);
    std::copy_n(pickle.data() + position, count, to);
    position += count;
    return count;
  };
  std::map<const void*, std::size_t> sizes;
  const auto read_storage = [&](const std::string& key) {
    auto [data, size] = reader_->getRecord(c10::str(name, "/", key));
    sizes[data.get()] = size;
    return std::move(data);
  };
  return in_one_line([&] {
    torch::jit::Unpickler unpickler(read_pickle, std::move(type_named), std::move(object_of), read_storage, device);
    c10::IValue value = unpickler.parse_ivalue();
    if (!device) return value;  // it was checked on the CPU
    for (const at::Tensor& tensor : tensors_in(value)) {
      for (const at::Tensor& part : parts_of(tensor)) check_bytes(part, sizes);
    }
    return value;
  });
}

}  // namespace it3::detail
