#include "files/nesting.h"

#include <string>

#include <gtest/gtest.h>
#include <torch/csrc/jit/serialization/pickle.h>
#include <torch/torch.h>

#include "error_of.h"

namespace it3::detail {
namespace {

using namespace std::string_literals;

std::string pickle_error(const std::string& pickle) {
  return test::error_of([&] { check_pickle(pickle); });
}

std::string code_error(const std::string& code) {
  return test::error_of([&] { check_code(code); });
}

std::string repeated(const std::string& text, int count) {
  std::string all;
  for (int i = 0; i < count; ++i) all += text;
  return all;
}

const std::string fine = "no c10::ValueError";
const std::string within_itself = "a pickle in it has a value within itself";
const std::string damaged = "a pickle in it is damaged";

TEST(PickleNesting, TakesWhatTorchPickles) {
  const c10::List<std::string> names({"a", "b", "a"});
  c10::impl::GenericDict dict(c10::StringType::get(), c10::AnyType::get());
  dict.insert("names", names);
  dict.insert("same", names);
  dict.insert("number", 1 << 20);
  dict.insert("nested", c10::ivalue::Tuple::create({names, 0.5, c10::IValue(), true, dict.copy()}));
  const auto bytes = torch::jit::pickle(dict);
  EXPECT_EQ(pickle_error(std::string(bytes.begin(), bytes.end())), fine);
  EXPECT_EQ(pickle_error("\x80\x02](]q\0h\0h\0e."s), fine);  // one list three times in another one
}

TEST(PickleNesting, IsLimited) {
  EXPECT_EQ(pickle_error(repeated("(", 999) + "N"s + repeated("t", 999) + "."), fine);
  EXPECT_EQ(pickle_error("N"s + repeated("\x85", 1000) + "."), fine);
  EXPECT_EQ(pickle_error("N"s + repeated("\x85", 1001) + "."), "a pickle in it is nested more than 1000 deep");
  EXPECT_EQ(
      pickle_error(repeated("]", 1002) + repeated("a", 1001) + "."), "a pickle in it is nested more than 1000 deep");
}

TEST(PickleNesting, NoValueIsWithinItself) {
  EXPECT_EQ(pickle_error("]q\0h\0a."s), within_itself);                     // a list in itself
  EXPECT_EQ(pickle_error("]q\0(h\0e."s), within_itself);                    // the same, with a mark
  EXPECT_EQ(pickle_error("]q\0\x85q\x01h\0h\x01"s + "a."), within_itself);  // in a tuple that is in it
  EXPECT_EQ(pickle_error("}q\0Nh\0s."s), within_itself);                    // a dictionary in itself
}

TEST(PickleNesting, WhatIsHeldOftenIsCountedOften) {
  // A tuple of twice the tuple before, 30 times: two to the thirty.
  std::string doubled = "(NNt", fine_doubled;
  for (int i = 0; i < 30; ++i) {
    const char index = static_cast<char>(i);
    doubled += "q"s + index + "h" + index + "\x86";
    if (i == 15) fine_doubled = doubled + ".";
  }
  EXPECT_EQ(pickle_error(fine_doubled), fine);
  EXPECT_EQ(pickle_error(doubled + "."), "a pickle in it unpacks to more than 10000000 values");
}

TEST(PickleNesting, NothingIsCountedOnThatIsNotThere) {
  EXPECT_EQ(pickle_error(""), damaged);
  EXPECT_EQ(pickle_error("."), damaged);
  EXPECT_EQ(pickle_error("N"), damaged);
  EXPECT_EQ(pickle_error("NN."), damaged);
  EXPECT_EQ(pickle_error("(N."), damaged);
  EXPECT_EQ(pickle_error("Nt."), damaged);
  EXPECT_EQ(pickle_error("N\x86."), damaged);
  EXPECT_EQ(pickle_error("(N(\x86."), damaged);             // across a mark
  EXPECT_EQ(pickle_error("h\0."s), damaged);                // nothing is there
  EXPECT_EQ(pickle_error("Nr\xff\xff\xff\xff."), damaged);  // room for 4 billion values
  EXPECT_EQ(pickle_error("X\xff\xff\xff\x7f."), damaged);   // a string of 2 GB
  EXPECT_EQ(pickle_error("\x8d\xff\xff\xff\xff\xff\xff\xff\xff."), damaged);
  EXPECT_EQ(pickle_error("cos\nsystem"), damaged);
  EXPECT_EQ(pickle_error("I01\n."), "a pickle in it has the operation 73, which torch does not read");
}

TEST(CodeNesting, IsLimited) {
  const auto expression = [](const std::string& text) { return c10::str("def f(x):\n  return ", text, "\n"); };
  EXPECT_EQ(code_error(expression(repeated("(", 2000) + "x"s + repeated(")", 2000))), fine);
  const std::string too_many = "code in it has an expression of more than 5000 operators";
  EXPECT_EQ(code_error(expression(repeated("(", 6000))), too_many);
  EXPECT_EQ(code_error(expression(repeated("(\n", 6000))), too_many);
  EXPECT_EQ(code_error(expression(repeated("-", 6000) + "x")), too_many);
  EXPECT_EQ(code_error(expression(repeated("not ", 6000) + "x")), too_many);
  EXPECT_EQ(code_error(expression("x"s + repeated(" if x else x", 3000))), too_many);
  EXPECT_EQ(code_error(expression("x"s + repeated("[0]", 3000))), too_many);
  EXPECT_EQ(code_error(repeated(" ", 402) + "x"), "code in it is nested more than 200 deep");
}

TEST(CodeNesting, TakesLongCode) {
  EXPECT_EQ(code_error(repeated("  x = torch.add(x, -1.5)\n", 100000)), fine);
  EXPECT_EQ(code_error("x = ["s + repeated("1, ", 100000) + "2]\n"), fine);
  EXPECT_EQ(code_error("x = ["s + repeated("-0.5, ", 100000) + "2.]\n"), fine);
  EXPECT_EQ(code_error("x = ["s + repeated("\"name\", ", 100000) + "\"\"]\n"), fine);
  EXPECT_EQ(code_error("x = [(1, [self.a.b, 2])"s + repeated(", (1, [self.a.b, 2])", 100000) + "]\n"), fine);
  EXPECT_EQ(code_error(repeated("x = \"([{\\\"(\"  # (\n", 10000)), fine);  // in strings and comments
}

}  // namespace
}  // namespace it3::detail
