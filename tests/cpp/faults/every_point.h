#pragma once

#include <cstdint>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <optional>
#include <string>

#include "faults/calls.h"
#include "faults/subject.h"
#include "faults/tally.h"
#include "warnings.h"

namespace it3::test {

/// What a call gives.
struct Result {
  std::vector<at::Tensor> tensors;
  std::string files;

  Result(std::vector<at::Tensor> values, const Subject& subject) : tensors(std::move(values)) {
    for (const auto& item : std::filesystem::directory_iterator(subject.folder.path)) {
      std::ifstream file(item.path(), std::ios::binary);
      files.append(std::istreambuf_iterator<char>(file), {});
    }
  }

  static Result of(const Call& call, Subject& subject) {
    torch::manual_seed(3);
    return {call.run(subject), subject};
  }

  bool is(const Result& other) const {
    return files == other.files && std::equal(
                                       tensors.begin(), tensors.end(), other.tensors.begin(), other.tensors.end(),
                                       [](const auto& a, const auto& b) { return bytes_of(a) == bytes_of(b); });
  }

  /// Whether another way of computing it may have given it.
  bool is_near(const Result& other) const {
    return files == other.files &&
           std::equal(
               tensors.begin(), tensors.end(), other.tensors.begin(), other.tensors.end(),
               [](const auto& a, const auto& b) {
                 return a.defined() ? a.sizes() == b.sizes() && torch::allclose(a, b, 1e-4, 1e-6) : !b.defined();
               });
  }
};

/// The first line of an error; empty for none.
inline std::string text_of(const std::exception_ptr& raised) {
  if (raised == nullptr) return "";
  try {
    std::rethrow_exception(raised);
  } catch (const std::exception& error) {
    const std::string text = error.what();
    return "'" + text.substr(0, text.find('\n')) + "'";
  } catch (...) {
    return "no std::exception";
  }
}

/// Runs a call with a failure at each of its points in turn, until there is none, in child processes. After each, all
/// is as before, or, of a call that changes something for good, as after it; and the next call gives the right result.
///
/// @param make  gives a subject
/// @param fail_at  of n, gives a pointer to what makes the n-th point fail while it lives
template <typename Make, typename FailAt>
Tally every_point(const Call& call, const Make& make, const FailAt& fail_at) {
  return in_children([&](std::int64_t first, Progress& progress) {
    const auto fresh = [&] {
      std::unique_ptr<Subject> subject = make();
      call.prepare(*subject);
      return subject;
    };
    const Warnings silent;
    const auto plain = fresh();
    const Result expected = Result::of(call, *plain);
    const Snapshot complete(*plain);
    const Result next = Result::of(call, *plain);
    auto subject = fresh();
    for (std::int64_t n = first;; ++n) {
      progress.begin(n);
      torch::manual_seed(3);
      const Snapshot before(*subject);
      std::vector<at::Tensor> values;
      std::exception_ptr raised;
      bool has_failed = false;
      {
        const auto fault = fail_at(progress.point);
        try {
          values = call.run(*subject);
        } catch (...) {
          raised = std::current_exception();  // to be looked at where nothing fails any more
        }
        has_failed = fault->has_failed();
      }
      const std::string error = text_of(raised);
      const auto note = [&](const std::string& problem) {
        progress.add_fault(c10::str(call.name, ", point ", progress.point, " (", error, "): ", problem));
      };
      if (!has_failed) {
        if (!error.empty()) note("raised without a failure");
        return;
      }
      ++progress.points;
      bool is_used_up = call.changes || error.empty();
      if (error.empty()) {
        ++progress.hidden;
        if (!Result(values, *subject).is_near(expected)) note("another result");
      } else {
        ++progress.raised;
        const Snapshot after(*subject);
        const std::string difference = before.difference_to(after, call.may_change);
        if (!difference.empty() && call.changes && after.has_values_of(complete)) {
          ++progress.completed;
          if (!Result::of(call, *subject).is(next)) note("was done in part: the next call gives another result");
        } else if (!difference.empty()) {
          note("changed " + difference);
          is_used_up = true;
        } else if (!Result::of(call, *subject).is(expected)) {
          note("the next call gives another result");
          is_used_up = true;
        }
      }
      if (is_used_up) {
        subject = fresh();
      } else {
        for (const auto& file : std::filesystem::directory_iterator(subject->folder.path)) {
          std::filesystem::remove(file);
        }
      }
    }
  });
}

}  // namespace it3::test
