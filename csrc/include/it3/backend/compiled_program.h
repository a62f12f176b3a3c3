#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include <it3/backend/export.h>

namespace it3 {

/// While it lives, no other thread loads a package by CompiledProgram: torch reads the metadata of all packages into
/// one object of the process (pytorch/pytorch#194128). For those who load one by torch's own means. It waits for
/// others.
class IT3_API PackageLoading {
 public:
  PackageLoading();

 private:
  std::unique_lock<std::mutex> lock_;
};

/// A pure function of tensors, compiled ahead by AOTInductor for tensors of certain dtypes, devices and sizes. Safe to
/// run in several threads at once.
class IT3_API CompiledProgram {
 public:
  /// What an argument has to be. Its size in each dimension is a number, or an expression in symbols: "4*s77".
  struct Argument {
    std::size_t value;  // its place among the values that the program is run on, of which it takes some
    at::ScalarType dtype;
    c10::Device device;
    std::vector<std::string> sizes;
  };

  /// @param package  a file that torch's aoti_compile_and_package() wrote
  /// @param conditions  on sizes, see ExportedGraph::conditions
  ///
  /// @throws c10::Error  if this torch cannot load it on this machine
  CompiledProgram(const std::string& package, std::vector<Argument> arguments, std::vector<std::string> conditions);
  ~CompiledProgram();
  CompiledProgram(CompiledProgram&&) noexcept;
  CompiledProgram& operator=(CompiledProgram&&) noexcept;

  /// Why it cannot be run on these values; empty if it can.
  std::string why_not(const std::vector<at::Tensor>& values) const;

  /// Its results on values that why_not() has nothing against. They have no gradients.
  std::vector<at::Tensor> operator()(const std::vector<at::Tensor>& values) const;

  /// A value as programs take it: contiguous, at an address that vector instructions can load from.
  static at::Tensor as_argument(const at::Tensor& value);

 private:
  struct Loaded;
  std::unique_ptr<Loaded> loaded_;
};

}  // namespace it3
