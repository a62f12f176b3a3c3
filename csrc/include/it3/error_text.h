#pragma once

#include <exception>
#include <string>

#include <it3/backend/export.h>

namespace it3 {

/// What an error says, in one line for people to read, as `it3-adapt` prints errors.
///
/// what() of torch's errors goes on with the stack that they were raised in, and that of TorchScript's begins with the
/// calls in the model's code that led to them. Both are left out, as is all behind the first line that is not empty.
///
/// @code{.cpp}
/// try {
///   engine.adapt(torch::randn({8, 5}));  // the model takes 13 features
/// } catch (const std::exception& error) {
///   std::cerr << "cannot adapt: " << it3::error_text(error) << '\n';
/// }
/// @endcode
///
/// @param error  of any kind; c10::Error and errors of other libraries alike
/// @return  never empty: "an error without words" if it says nothing
IT3_API std::string error_text(const std::exception& error);

}  // namespace it3
