#include "faults/calls.h"

#include <algorithm>

namespace it3::test {
namespace {

void look(Subject& subject) { subject.engine().uncertainty(subject.x); }

std::vector<at::Tensor> all_of(const Adaptation& a) {
  std::vector<at::Tensor> all = {a.prediction, a.first, a.second, a.losses, a.adapted_samples};
  for (const auto& [name, weight] : a.weights) all.push_back(weight);
  return all;
}

}  // namespace

Call adapt_call(bool with_details) {
  return {
      with_details ? "adapt with details" : "adapt",
      [=](Subject& s) { return all_of(s.engine().adapt(s.x, with_details)); }, look};
}

Call first_adapt_call() {
  Call call = adapt_call();
  call.name = "first adapt";
  call.prepare = [](Subject&) {};
  call.changes = true;
  return call;
}

Call first_losses_call() {
  Call call = losses_call();
  call.name = "first losses";
  call.prepare = [](Subject& s) { s.train(false); };
  call.changes = true;
  return call;
}

Call online_call() {
  Call call = adapt_call();
  call.name = "online adapt";
  call.prepare = [](Subject& s) { s.engine().adapt(s.x); };  // there is state to go on with
  call.changes = true;
  return call;
}

Call collapsed_call() {
  Call call = online_call();
  call.name = "adapt after a collapse";
  call.prepare = [](Subject& s) {
    double least = 1e9, greatest = 0;
    at::Tensor near;
    for (const double scale : {-5.0, -1.0, 0.1, 1.0, 5.0}) {
      const at::Tensor inputs = scale * s.x;
      const double size = s.engine().uncertainty(inputs).norm().item<double>();
      if (size < least) near = inputs;
      if (size > greatest) s.far = inputs;
      least = std::min(least, size);
      greatest = std::max(greatest, size);
    }
    s.engine().adapt(near);
  };
  call.run = [](Subject& s) { return all_of(s.engine().adapt(s.far)); };
  return call;
}

Call uncertainty_call() {
  return {"uncertainty", [](Subject& s) -> std::vector<at::Tensor> { return {s.engine().uncertainty(s.x)}; }, look};
}

Call calibrate_call() {
  return {
      "calibrate",
      [](Subject& s) -> std::vector<at::Tensor> {
        const double threshold = s.engine().calibrate({s.x, s.x});
        s.engine().options.threshold.reset();
        s.target.mutable_data_ptr<float>()[0] = static_cast<float>(threshold);  // no operator of ours
        return {s.target};
      },
      look};
}

Call losses_call() {
  return {
      "losses",
      [](Subject& s) -> std::vector<at::Tensor> {
        const Losses losses = s.engine().losses(s.x, s.target);
        return {losses.prediction, losses.loss_ttt};
      },
      [](Subject& s) {
        look(s);
        s.train(false);
      }};
}

Call training_call() {
  return {
      .name = "training",
      .run = [](Subject& s) -> std::vector<at::Tensor> {
        for (auto& p : s.engine().parameters()) p.mutable_grad() = at::Tensor();
        const Losses losses = s.engine().losses(s.x, s.target);
        (torch::mse_loss(losses.prediction, s.target) + losses.loss_ttt).backward();
        std::vector<at::Tensor> all = {losses.prediction, losses.loss_ttt};
        for (auto& p : s.engine().parameters()) all.push_back(p.grad());
        return all;
      },
      .prepare =
          [](Subject& s) {
            look(s);
            s.train(true);
          },
      .changes = true,
      // As in any training with torch: running statistics, dropout's draws and what backward() adds up.
      .may_change = {.buffers = true, .random_state = true, .gradients = true}};
}

Call save_call() {
  return {
      "save",
      [](Subject& s) -> std::vector<at::Tensor> {
        s.engine().save(s.folder.file("engine.pt"), s.x);
        return {};
      },
      look};
}

Call save_adapted_call() {
  return {
      "save_adapted",
      [](Subject& s) -> std::vector<at::Tensor> {
        s.engine().save_adapted(s.engine().adapt(s.x, /*with_details=*/true), s.folder.file("adapted.pt"));
        return {};
      },
      look};
}

Call save_state_call() {
  return {
      "save_state",
      [](Subject& s) -> std::vector<at::Tensor> {
        s.engine().save_state(s.folder.file("state.pt"));
        return {};
      },
      look};
}

Call load_state_call() {
  return {
      "load_state",
      [](Subject& s) -> std::vector<at::Tensor> {
        s.engine().load_state(s.folder.file("state.pt"));
        return {};
      },
      [](Subject& s) {
        Subject other(s.kind(), s.engine().options);
        look(other);
        for (auto& [name, tensor] : other.tensors()) {
          if (tensor.is_floating_point()) tensor.detach().add_(1);
        }
        other.engine().save_state(s.folder.file("state.pt"));
        look(s);
      },
      /*changes=*/true};
}

Call reset_call() {
  return {
      "reset",
      [](Subject& s) -> std::vector<at::Tensor> {
        s.engine().reset();
        return {};
      },
      [](Subject& s) { s.engine().adapt(s.x); }, /*changes=*/true};
}

}  // namespace it3::test
