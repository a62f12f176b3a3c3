#include "torchscript/run_code.h"

#include <stdexcept>

#include <c10/util/Exception.h>

#include <it3/backend/interrupts.h>

#include "support/error_text.h"

namespace it3::detail {

void run_code(const torch::jit::Code& code, torch::jit::Stack& stack) {
  try {
    torch::jit::InterpreterState(code).run(stack);
  } catch (const c10::NotImplementedError& error) {
    raise_pending_interrupt();
    const std::string text = text_of(error);
    TORCH_CHECK_NOT_IMPLEMENTED(false, text);
  } catch (const c10::Error&) {
    throw;
  } catch (const std::exception& error) {
    raise_pending_interrupt();
    const std::string text = text_of(error);
    TORCH_CHECK_WITH(OutOfMemoryError, !is_out_of_memory(text), text);
    throw std::runtime_error(text);
  }
}

}  // namespace it3::detail
