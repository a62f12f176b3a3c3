#include "files/archive.h"

#include <functional>
#include <map>
#include <sstream>

#include <ATen/ATen.h>
#include <caffe2/serialize/inline_container.h>
#include <gtest/gtest.h>
#include <torch/csrc/api/include/torch/serialize.h>

#include "error_of.h"
#include "files/zip_directory.h"
#include "support/crc32.h"

namespace it3::detail {
namespace {

using caffe2::serialize::PyTorchStreamReader;
using caffe2::serialize::PyTorchStreamWriter;

std::unique_ptr<std::istream> stream_of(const std::string& bytes) {
  return std::make_unique<std::istringstream>(bytes);
}

/// A dictionary of a tensor of twelve numbers, and one over its second half.
std::string saved() {
  const at::Tensor all = at::arange(12, at::kDouble);
  c10::Dict<std::string, at::Tensor> dict;
  dict.insert("all", all);
  dict.insert("half", all.slice(0, 6));
  const auto bytes = torch::pickle_save(dict);
  return {bytes.begin(), bytes.end()};
}

std::string with_records(
    const std::string& bytes, const std::function<void(const std::string& name, std::string& content)>& change) {
  std::istringstream stream(bytes);
  PyTorchStreamReader reader(&stream);
  std::string made;
  PyTorchStreamWriter writer([&](const void* data, std::size_t size) {
    made.append(static_cast<const char*>(data), size);
    return size;
  });
  for (const std::string& name : reader.getAllRecords()) {
    if (name == "version" || name == "byteorder" || name.starts_with(".")) continue;  // which the writer adds
    const auto [data, size] = reader.getRecord(name);
    std::string content(static_cast<const char*>(data.get()), size);
    change(name, content);
    writer.writeRecord(name, content.data(), content.size());
  }
  writer.writeEndOfFile();
  return made;
}

std::string error_at(const std::string& bytes) {
  return test::error_of([&] { Archive(stream_of(bytes)).unpickle("data"); });
}

TEST(Crc32, IsThatOfTheStandard) {
  EXPECT_EQ(crc32("123456789", 9), 0xCBF43926U);  // the check value of CRC-32/ISO-HDLC
  EXPECT_EQ(crc32("", 0), 0U);
  EXPECT_EQ(crc32("56789", 5, crc32("1234", 4)), 0xCBF43926U);
}

TEST(Archive, ReadsWhatTorchWrote) {
  const auto dict = Archive(stream_of(saved())).unpickle("data").toGenericDict();
  const at::Tensor half = dict.at("half").toTensor();
  EXPECT_TRUE(at::equal(half, at::arange(6, 12, at::kDouble)));
  EXPECT_TRUE(half.is_alias_of(dict.at("all").toTensor()));
}

TEST(Archive, ADamagedByteIsFoundOrChangesNothing) {
  const std::string bytes = saved();
  const at::Tensor expected = at::arange(12, at::kDouble);
  std::size_t found = 0;
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    for (const int change : {0x01, 0x80, 0xFF}) {
      std::string damaged = bytes;
      damaged[i] = static_cast<char>(damaged[i] ^ change);
      try {
        const auto dict = Archive(stream_of(damaged)).unpickle("data").toGenericDict();
        ASSERT_TRUE(at::equal(dict.at("all").toTensor(), expected)) << "byte " << i;
        ASSERT_TRUE(at::equal(dict.at("half").toTensor(), expected.slice(0, 6))) << "byte " << i;
      } catch (const c10::ValueError& error) {
        ASSERT_STRNE(error.what_without_backtrace(), "") << "byte " << i;
        ++found;
      }
    }
  }
  EXPECT_GT(found, 12 * sizeof(double) * 3);  // each byte of the numbers, and others
}

TEST(Archive, OneThatIsCutOffIsRefused) {
  const std::string bytes = saved();
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    ASSERT_NE(error_at(bytes.substr(0, size)), "no c10::ValueError") << size;
  }
}

TEST(Archive, TensorsHaveAllTheirBytes) {
  for (const std::size_t size : {0, 1, 47, 95}) {  // of 96
    const std::string shorter = with_records(saved(), [&](const std::string& name, std::string& content) {
      if (name == "data/0") content.resize(size);
    });
    EXPECT_EQ(error_at(shorter), c10::str("one of its tensors has only ", size, " of 96 bytes"));
  }
  const std::string same = with_records(saved(), [](const std::string&, std::string&) {});
  EXPECT_EQ(error_at(same), "no c10::ValueError");
}

TEST(Archive, SparseTensorsHaveAllTheirBytes) {
  const auto written = torch::pickle_save(at::eye(50).to_sparse());
  const std::string bytes(written.begin(), written.end());
  EXPECT_EQ(error_at(bytes), "no c10::ValueError");
  for (const char* const part : {"data/0", "data/1"}) {
    const std::string shorter = with_records(bytes, [&](const std::string& name, std::string& content) {
      if (name == part) content.resize(16);
    });
    EXPECT_EQ(error_at(shorter).find("one of its tensors has only 16 of "), 0) << error_at(shorter);
  }
}

TEST(Archive, MissingRecordsAreNamed) {
  const std::string bytes = saved();
  EXPECT_NE(test::error_of([&] { Archive(stream_of(bytes)).unpickle("other"); }).find("other.pkl"), std::string::npos);
}

TEST(Archive, RecordsThatUnpackToMuchMoreAreRefused) {
  std::string made;
  PyTorchStreamWriter writer([&](const void* data, std::size_t size) {
    made.append(static_cast<const char*>(data), size);
    return size;
  });
  const std::string zeros(100 << 20, '\0');
  writer.writeRecord("data.pkl", zeros.data(), zeros.size(), /*compress=*/true);
  writer.writeEndOfFile();
  EXPECT_LT(made.size(), zeros.size() / 100);
  EXPECT_EQ(error_at(made).find("its records would take more than"), 0) << error_at(made);
}

/// As a file of more than 4 GB or 65,535 records has it.
TEST(ZipDirectory, OfZip64) {
  const std::string bytes = saved();
  const std::size_t end = bytes.rfind("PK\x05\x06");
  const auto field = [](std::uint64_t value, std::size_t size) {
    std::string bytes_of_it(size, '\0');
    for (std::size_t i = 0; i < size; ++i) bytes_of_it[i] = static_cast<char>(value >> (8 * i) & 0xFF);
    return bytes_of_it;
  };
  std::istringstream plain(bytes);
  const auto expected = checksums_in_zip(plain);
  const auto at = [&](std::size_t offset, std::size_t size) {
    std::uint64_t value = 0;
    for (std::size_t i = size; i > 0; --i) value = value << 8 | static_cast<unsigned char>(bytes[end + offset + i - 1]);
    return value;
  };
  const std::string record = "PK\x06\x06" + field(44, 8) + field(45, 2) + field(45, 2) + field(0, 8) +
                             field(at(10, 2), 8) + field(at(10, 2), 8) + field(at(12, 4), 8) + field(at(16, 4), 8);
  const std::string locator = "PK\x06\x07" + field(0, 4) + field(end, 8) + field(1, 4);
  const std::string unknown = "PK\x05\x06" + field(0, 4) + field(0xFFFF, 2) + field(0xFFFF, 2) + field(0xFFFFFFFF, 4) +
                              field(0xFFFFFFFF, 4) + field(0, 2);
  std::istringstream large(bytes.substr(0, end) + record + locator + unknown);
  EXPECT_EQ(checksums_in_zip(large), expected);
  EXPECT_GT(expected.size(), 2);
}

TEST(ZipDirectory, RefusesANameThatIsThereTwice) {
  const auto written = torch::pickle_save(c10::List<at::Tensor>({at::ones({2}), at::zeros({2})}));
  std::string bytes(written.begin(), written.end());
  bytes.replace(bytes.rfind("data/1"), 6, "data/0");  // in the directory
  EXPECT_NE(error_at(bytes), "no c10::ValueError");
  std::istringstream twice(bytes);
  EXPECT_NE(test::error_of([&] { checksums_in_zip(twice); }).find("data/0' twice"), std::string::npos);
}

}  // namespace
}  // namespace it3::detail
