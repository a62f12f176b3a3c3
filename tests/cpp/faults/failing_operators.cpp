#include "faults/failing_operators.h"

#include <utility>

#include <torch/library.h>

namespace it3::test {
namespace {

thread_local FailingOperators* current = nullptr;

/// They move pointers or set flags, which nothing can keep from succeeding, so that destructors may rely on them.
bool cannot_fail(const std::string& name) {
  static const std::set<std::string> names = {
      "aten::set_data", "aten::_has_compatible_shallow_copy_type", "aten::requires_grad_", "aten::detach_"};
  return names.contains(name);
}

void fail_or_go_on(const c10::OperatorHandle& op, c10::DispatchKeySet keys, torch::jit::Stack* stack) {
  FailingOperators::called(op);
  constexpr c10::DispatchKeySet below(c10::DispatchKeySet::FULL_AFTER, c10::DispatchKey::TESTING_ONLY_GenericMode);
  op.redispatchBoxed(keys & below, stack);
}

// Above autograd, so that operators made of others, and those of a backward pass, are seen.
TORCH_LIBRARY_IMPL(_, TESTING_ONLY_GenericMode, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&fail_or_go_on>());
}

}  // namespace

FailingOperators::FailingOperators(std::int64_t n, bool lasts)
    : n_(n), lasts_(lasts), outer_(std::exchange(current, this)) {}

FailingOperators::~FailingOperators() { current = outer_; }

void FailingOperators::called(const c10::OperatorHandle& op) {
  FailingOperators* const self = current;
  const std::string& name = op.operator_name().name;
  if (self == nullptr || cannot_fail(name)) return;
  self->names_.insert(name);
  ++self->count_;
  const bool fails = self->n_ > 0 && (self->lasts_ ? self->count_ >= self->n_ : self->count_ == self->n_);
  if (!fails) return;
  if (self->failed_.empty()) self->failed_ = name;
  TORCH_CHECK(false, "operator ", self->count_, ", ", name, ", was made to fail");
}

}  // namespace it3::test
