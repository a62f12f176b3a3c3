#pragma once

#include <string>
#include <vector>

#include <ATen/core/Tensor.h>
#include <c10/util/StringUtil.h>

#include <it3/backend/inputs.h>

namespace it3::detail {

/// A tensor's dtype and shape, for people.
inline std::string note(const at::Tensor& t) { return c10::str(t.scalar_type(), " ", t.sizes()); }

/// Those of a call's inputs, keywords by their names.
inline std::vector<std::string> notes_of(const Inputs& inputs) {
  const auto note_of = [](const c10::IValue& input) {
    return input.isTensor() ? note(input.toTensor()) : input.tagKind();
  };
  std::vector<std::string> notes;
  notes.reserve(inputs.args.size() + inputs.kwargs.size());
  for (const auto& input : inputs.args) notes.push_back(note_of(input));
  for (const auto& [name, input] : inputs.kwargs) notes.push_back(name + ": " + note_of(input));
  return notes;
}

}  // namespace it3::detail
