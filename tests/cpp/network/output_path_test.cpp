#include <ATen/core/Dict.h>

#include "network_fixture.h"

namespace it3::test {
namespace {

c10::IValue nested(const at::Tensor& a, const at::Tensor& b) {
  c10::Dict<std::string, at::Tensor> dict;
  dict.insert("logits", b);
  return c10::ivalue::Tuple::create({a, dict, 3.0});
}

TEST(OutputPath, IsReadAsItIsWritten) {
  const std::vector<std::pair<OutputPath, std::string>> paths = {
      {{}, ""},
      {{std::int64_t{1}}, "1"},
      {{std::int64_t{1}, std::int64_t{0}}, "1.0"},
      {{std::int64_t{-1}, "logits"}, "-1.logits"},
      {{"a.b", "0", "say \"no\"", "back\\slash", ""}, R"("a.b"."0"."say \"no\""."back\\slash"."")"},
      {{"größe"}, "größe"}};
  for (const auto& [path, text] : paths) {
    EXPECT_EQ(to_text(path), text);
    EXPECT_EQ(parse_output_path(text), path);
  }
}

TEST(OutputPath, RefusesTextsThatAreNone) {
  for (const char* text : {".", "a.", ".a", "a..b", "\"a", "\"a\"b", "a\"b", "99999999999999999999"}) {
    EXPECT_THROW(parse_output_path(text), c10::ValueError) << text;
  }
}

TEST(OutputPath, FindsTensors) {
  const at::Tensor a = torch::zeros({2}), b = torch::ones({3, 4});
  const c10::IValue value = nested(a, b);
  EXPECT_TRUE(tensor_at(value, OutputPath{std::int64_t{0}}).is_same(a));
  EXPECT_TRUE(tensor_at(value, OutputPath{std::int64_t{1}, "logits"}).is_same(b));
  EXPECT_TRUE(tensor_at(value, OutputPath{std::int64_t{-2}, "logits"}).is_same(b));
  EXPECT_TRUE(tensor_at(a, std::nullopt).is_same(a));
  EXPECT_TRUE(tensor_at(c10::ivalue::Tuple::create({3.0, b}), std::nullopt).is_same(b));
  ASSERT_EQ(tensors_with_paths(value).size(), 2);
  EXPECT_EQ(to_text(tensors_with_paths(value)[1].path), "1.logits");
}

TEST(OutputPath, ErrorsListWhatIsThere) {
  const c10::IValue value = nested(torch::zeros({2}), torch::ones({3, 4}));
  for (const auto& path : std::vector<std::optional<OutputPath>>{{}, {{"logits"}}, {{std::int64_t{2}}}}) {
    try {
      tensor_at(value, path);
      FAIL();
    } catch (const c10::ValueError& error) {
      const std::string text = error.what();
      EXPECT_NE(text.find("0 of shape (2), 1.logits of shape (3, 4)"), std::string::npos) << text;
    }
  }
  EXPECT_THROW(tensor_at(3.0, std::nullopt), c10::TypeError);
}

}  // namespace
}  // namespace it3::test
