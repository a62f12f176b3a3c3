#include <it3/error_text.h>

#include <stdexcept>
#include <string>

#include <c10/util/Exception.h>
#include <gtest/gtest.h>
#include <torch/script.h>

namespace it3::test {
namespace {

/// What is raised where code in TorchScript runs on four ones.
std::string told_by(const std::string& body) {
  torch::jit::Module module("m");
  module.define("def forward(self, x):\n  return self.inner(x)\n\ndef inner(self, x):\n  " + body + "\n  return x\n");
  try {
    module.forward({torch::ones(4)});
  } catch (const std::exception& error) {
    EXPECT_NE(std::string(error.what()).find("Traceback of TorchScript"), std::string::npos);
    return error_text(error);
  }
  return "nothing was raised";
}

TEST(ErrorText, IsTheFirstLineThatIsNotEmpty) {
  EXPECT_EQ(error_text(std::runtime_error("a file is missing\nit was not found")), "a file is missing");
  EXPECT_EQ(error_text(std::runtime_error("\n\nsizes do not fit:\n  (3) and (4)")), "sizes do not fit");
}

TEST(ErrorText, IsNeverEmpty) {
  EXPECT_EQ(error_text(std::runtime_error("")), "an error without words");
  EXPECT_EQ(error_text(std::runtime_error("\n")), "an error without words");
}

TEST(ErrorText, LeavesOutTheStackOfTorchsErrors) {
  try {
    TORCH_CHECK_VALUE(false, "num_steps must be 0 or more");
  } catch (const c10::Error& error) {
    EXPECT_EQ(error_text(error), "num_steps must be 0 or more");
  }
}

TEST(ErrorText, LeavesOutTheCallsInTorchScript) {
  EXPECT_EQ(told_by("x = x.view(3, 5)"), "shape '[3, 5]' is invalid for input of size 4");
  EXPECT_EQ(told_by("assert x.numel() == 3, 'give 3: no more'"), "AssertionError: give 3: no more");
}

}  // namespace
}  // namespace it3::test
