#include "workers.h"

#include <algorithm>
#include <utility>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <it3/backend/interrupts.h>
#include <it3/error_text.h>

namespace serving {
namespace {

thread_local Clock::time_point last_deadline = Clock::time_point::max();

/// Ends calls between two steps when they are in vain.
const it3::Interrupts interrupts = {
    .check =
        [] {
          if (Clock::now() >= last_deadline) throw DeadlinePassed("the deadline has passed");
        },
    .are = [](const std::exception& error) { return dynamic_cast<const DeadlinePassed*>(&error) != nullptr; },
    .raise_pending = nullptr,
};

Failure failure_of_deadline() { return {504, "the deadline has passed"}; }

/// Whether samples of both fit into one tensor.
bool fit_together(const Job& a, const Job& b) {
  return std::equal(
      a.inputs.begin(), a.inputs.end(), b.inputs.begin(), b.inputs.end(), [](const at::Tensor& x, const at::Tensor& y) {
        return x.scalar_type() == y.scalar_type() && x.sizes().slice(1).equals(y.sizes().slice(1));
      });
}

std::int64_t samples_of(const Job& job) { return job.inputs[0].size(0); }

/// Whether each of a job's inputs has its samples, and not one for all of them.
bool is_of_samples(const Job& job) {
  return std::all_of(
      job.inputs.begin(), job.inputs.end(), [&](const at::Tensor& x) { return x.size(0) == samples_of(job); });
}

}  // namespace

void end_calls_after_deadlines() { it3::set_interrupts(interrupts); }

Workers::Workers(Model& model, Jobs& jobs, Metrics& metrics, Settings settings)
    : model_(model), jobs_(jobs), metrics_(metrics), settings_(settings) {
  for (int i = 0; i < settings.workers; ++i) threads_.emplace_back([this] { work(); });
}

Workers::~Workers() {
  for (std::thread& thread : threads_) thread.join();
}

void Workers::work() {
  at::set_num_threads(settings_.threads);  // of OpenMP, which counts for each thread that calls it
  while (auto job = jobs_.pop()) {
    const Group group = gather(std::move(*job));
    if (group.size() > 1 && answer_together(group)) continue;
    for (const auto& each : group) answer(*each);
  }
}

Workers::Group Workers::gather(std::shared_ptr<Job> first) {
  Group group = {std::move(first)};
  const Job& one = *group.front();
  if (settings_.batch == 1 || !is_of_samples(one)) return group;
  const auto until = std::min(Clock::now() + settings_.wait, one.deadline);
  std::int64_t room = settings_.batch - samples_of(one);
  const auto fits = [&](const std::shared_ptr<Job>& job) {
    return samples_of(*job) <= room && is_of_samples(*job) && fit_together(*job, one);
  };
  while (room > 0) {
    auto next = jobs_.pop_if(fits, until);
    if (!next) break;
    room -= samples_of(**next);
    group.push_back(std::move(*next));
  }
  return group;
}

/// False if it could not: then each job is answered by itself, so that one does not fail by another's fault.
bool Workers::answer_together(const Group& group) {
  const bool with_uncertainty =
      std::any_of(group.begin(), group.end(), [](const auto& job) { return job->wants_uncertainty; });
  last_deadline = Clock::time_point::min();
  for (const auto& job : group) last_deadline = std::max(last_deadline, job->deadline);
  std::vector<Answer> answers;
  try {
    std::vector<at::Tensor> inputs;
    for (std::size_t i = 0; i < group.front()->inputs.size(); ++i) {
      std::vector<at::Tensor> parts;
      for (const auto& job : group) parts.push_back(job->inputs[i]);
      inputs.push_back(at::cat(parts));
    }
    const auto [all, steps] = model_.adapt(inputs, with_uncertainty);
    const auto is_of_all = [&](const at::Tensor& x) { return x.dim() > 0 && x.size(0) == inputs[0].size(0); };
    if (!is_of_all(all.prediction) || (with_uncertainty && !is_of_all(all.uncertainty))) return false;
    std::int64_t begin = 0;
    for (const auto& job : group) {
      const std::int64_t count = samples_of(*job);
      Answer& answer = answers.emplace_back(Answer{all.prediction.narrow(0, begin, count), {}});
      if (job->wants_uncertainty) answer.uncertainty = all.uncertainty.narrow(0, begin, count);
      begin += count;
    }
    metrics_.adapted(steps, group.size());
  } catch (const std::exception&) {
    return false;
  }
  for (std::size_t i = 0; i < group.size(); ++i) group[i]->outcome.set_value(std::move(answers[i]));
  return true;
}

void Workers::answer(Job& job) {
  last_deadline = job.deadline;
  Outcome outcome = failure_of_deadline();
  if (Clock::now() < job.deadline) {
    try {
      auto [answer, steps] = model_.adapt(job.inputs, job.wants_uncertainty);
      metrics_.adapted(steps, 1);
      outcome = std::move(answer);
    } catch (const DeadlinePassed&) {  // as it is
    } catch (const BadRequest& error) {
      outcome = Failure{400, error.what()};
    } catch (const std::exception& error) {
      outcome = Failure{500, it3::error_text(error)};
    }
  }
  job.outcome.set_value(std::move(outcome));
}

}  // namespace serving
