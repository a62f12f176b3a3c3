#pragma once

#include <optional>
#include <string>

#include <torch/csrc/jit/api/module.h>

namespace it3::detail {

/// An attribute of a module. Its place is looked up once: names are slow to find.
class AttributeSlot {
 public:
  AttributeSlot(const torch::jit::Module& owner, const std::string& name)
      : owner_(owner._ivalue()), slot_(owner.type()->getAttributeSlot(name)) {}

  const c10::IValue& get() const { return owner_->slots()[slot_]; }

 private:
  c10::intrusive_ptr<c10::ivalue::Object> owner_;
  std::size_t slot_;
};

/// An attribute whose value became a constant of a graph.
struct FoldedAttribute {
  AttributeSlot attribute;
  c10::IValue value;
};

/// A tensor that a module holds, as an attribute or in a list of tensors, and that became an input of a graph.
struct LiftedTensor {
  AttributeSlot attribute;
  std::optional<std::size_t> index;  // in a list
  std::string name;                  // for people
  // Whether a copy of it may have another memory layout, in which convolutions are faster.
  bool is_convolution_weight = false;
  bool is_in_head = false;  // whether the head reads it
  bool is_written = false;  // by an in-place operation, such as a batch normalization's of its statistics

  at::Tensor get() const {
    const c10::IValue& value = attribute.get();
    return index ? value.toTensorList().get(*index) : value.toTensor();
  }
};

}  // namespace it3::detail
