#pragma once

#include <functional>
#include <optional>
#include <type_traits>
#include <utility>

#include <torch/csrc/Exceptions.h>

#include "plain_warnings.h"

namespace it3::python {
namespace detail {

template <typename F, std::size_t... I>
auto translated(F function, std::index_sequence<I...>) {
  return [function = std::move(function)](torch::detail::Arg<F, I>... arguments) {
    using Result = std::invoke_result_t<const F&, torch::detail::Arg<F, I>...>;
    if constexpr (std::is_void_v<Result>) {
      torch::wrap_pybind_function([&] {
        const PlainWarnings plain;
        std::invoke(function, std::forward<torch::detail::Arg<F, I>>(arguments)...);
      })();
    } else {
      std::optional<std::decay_t<Result>> result;
      torch::wrap_pybind_function([&] {
        const PlainWarnings plain;
        result.emplace(std::invoke(function, std::forward<torch::detail::Arg<F, I>>(arguments)...));
      })();
      return *std::move(result);
    }
  };
}

}  // namespace detail

/// A function whose exceptions and warnings become those of Python.
///
/// Where Python makes errors of warnings, torch's handler throws as it is destroyed. What the function returns must be
/// out of its way by then: what is returned through it, GCC 12 destroys twice.
template <typename F>
auto translated(F&& function) {
  using traits = ::invoke_traits<std::decay_t<F>>;
  return detail::translated(std::decay_t<F>(std::forward<F>(function)), std::make_index_sequence<traits::arity>{});
}

}  // namespace it3::python
