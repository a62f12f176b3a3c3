// Adapts a model that is neither a torch::nn module nor TorchScript: a simulator with a learned force, its weights in
// plain tensors. it3::Network asks for its passes, its parameters, and copies of it whose weights can change.
#include <iostream>

#include <torch/torch.h>

#include <it3/it3.h>

namespace {

/// The weights of the force, by name.
using Weights = std::vector<it3::NamedParameter>;

/// One step of a pendulum: states (B, 2), of angle and velocity, to those after `dt`. Gravity is known, friction is
/// learned: a hidden layer, at which predictions are fed back, and a linear one.
class Passes : public it3::TwoPass {
 public:
  explicit Passes(Weights weights) : weights_(std::move(weights)) {}

  it3::FirstPass predict(const it3::Inputs& inputs, const it3::Inject* inject) override {
    return {step(it3::single_tensor(inputs), inject)};
  }
  // Nothing of the first pass is kept for the second one; FirstPass::carried could hold the hidden layer.
  it3::FirstPass prepare(const it3::Inputs&) override { return {}; }
  at::Tensor resume(const it3::Inputs& inputs, const it3::FirstPass&, const it3::Inject* inject) override {
    return step(it3::single_tensor(inputs), inject);
  }

  const Weights& weights() const { return weights_; }

 private:
  at::Tensor step(const at::Tensor& state, const it3::Inject* inject) const {
    const double dt = 0.1;
    at::Tensor hidden = torch::tanh(torch::addmm(weights_[1].tensor, state, weights_[0].tensor));
    if (inject != nullptr) hidden = (*inject)(hidden);
    const at::Tensor angle = state.narrow(1, 0, 1), velocity = state.narrow(1, 1, 1);
    const at::Tensor faster = velocity + dt * (hidden.matmul(weights_[2].tensor) - torch::sin(angle));
    return torch::cat({angle + dt * faster, faster}, 1);
  }

  Weights weights_;
};

/// Passes on copies of the weights that adapt. The simulator itself changes when it is committed, if ever.
class Copy : public it3::WorkingCopy {
 public:
  Copy(Weights own, const Weights& adapted) : own_(std::move(own)), adapted_(adapted) {
    for (const auto& parameter : adapted_) {
      values_.push_back(parameter.tensor.detach().clone());
      leaves_.push_back(values_.back().detach().requires_grad_());
    }
    passes_.emplace(with(leaves_));
  }

  it3::FirstPass predict(const it3::Inputs& inputs, const it3::Inject* inject) override {
    return passes_->predict(inputs, inject);
  }
  it3::FirstPass prepare(const it3::Inputs& inputs) override { return passes_->prepare(inputs); }
  at::Tensor resume(const it3::Inputs& inputs, const it3::FirstPass& first, const it3::Inject* inject) override {
    return passes_->resume(inputs, first, inject);
  }
  const std::vector<at::Tensor>& leaves() const override { return leaves_; }
  const std::vector<at::Tensor>& values() const override { return values_; }
  std::unique_ptr<it3::TwoPass> with_constants(const std::vector<at::Tensor>& values) override {
    return std::make_unique<Passes>(with(values));
  }
  void commit() override {
    const at::NoGradGuard no_grad;
    for (std::size_t i = 0; i < adapted_.size(); ++i) adapted_[i].tensor.copy_(values_[i]);
  }

 private:
  /// The weights, constants all but for these.
  Weights with(const std::vector<at::Tensor>& values) const {
    Weights weights = own_;
    for (auto& weight : weights) {
      const at::Tensor own = weight.tensor;
      weight.tensor = own.detach();
      for (std::size_t i = 0; i < adapted_.size(); ++i) {
        if (adapted_[i].tensor.is_same(own)) weight.tensor = values[i];
      }
    }
    return weights;
  }

  Weights own_, adapted_;
  std::vector<at::Tensor> values_, leaves_;
  std::optional<Passes> passes_;
};

class Pendulum : public it3::Network {
 public:
  Pendulum()
      : passes_(
            {{"hidden.weight", (0.5 * torch::randn({2, 16})).requires_grad_()},
             {"hidden.bias", torch::zeros(16).requires_grad_()},
             {"friction.weight", (0.1 * torch::randn({16, 1})).requires_grad_()}}) {}

  it3::FirstPass predict(const it3::Inputs& inputs, const it3::Inject* inject) override {
    return passes_.predict(inputs, inject);
  }
  it3::FirstPass prepare(const it3::Inputs& inputs) override { return passes_.prepare(inputs); }
  at::Tensor resume(const it3::Inputs& inputs, const it3::FirstPass& first, const it3::Inject* inject) override {
    return passes_.resume(inputs, first, inject);
  }
  std::vector<it3::NamedParameter> parameters() const override { return passes_.weights(); }
  std::string layer_name() const override { return "hidden"; }
  std::unique_ptr<it3::WorkingCopy> checkout(
      const Weights& adapted, const it3::Normalization& /*there is no batch normalization*/) override {
    return std::make_unique<Copy>(parameters(), adapted);
  }

 private:
  Passes passes_;
};

/// What a pendulum with friction does.
at::Tensor truth(const at::Tensor& state, double friction) {
  const at::Tensor angle = state.narrow(1, 0, 1), velocity = state.narrow(1, 1, 1);
  const at::Tensor faster = velocity + 0.1 * (-friction * velocity - torch::sin(angle));
  return torch::cat({angle + 0.1 * faster, faster}, 1);
}

}  // namespace

int main() {
  torch::manual_seed(0);
  const auto network = std::make_shared<Pendulum>();
  it3::Engine engine(network, {.optimizer_name = it3::OptimizerKind::sgd, .num_steps = 1, .lr = 0.1});
  torch::optim::Adam optimizer(engine.parameters(), 1e-2);
  for (int step = 0; step < 300; ++step) {
    const at::Tensor x = torch::randn({64, 2}), y = truth(x, 0.3);
    const it3::Losses losses = engine.losses(x, y);
    optimizer.zero_grad();
    (torch::mse_loss(losses.prediction, y) + losses.loss_ttt).backward();
    optimizer.step();
  }

  // Faster swings than those of the training. One step, and the same by hand.
  const at::Tensor x = 3 * torch::randn({64, 2});
  const it3::Adaptation adapted = engine.adapt(x);
  const auto before = network->parameters();
  const it3::EmbedderWeights& weights = engine.embedder()->weights();
  const it3::Inject feed_back([&](const at::Tensor& hidden) {
    const at::Tensor y0 = network->predict(x, nullptr).prediction;
    return hidden + it3::embed(y0, hidden, weights);
  });
  const at::Tensor loss = torch::mse_loss(network->resume(x, {}, &feed_back), network->predict(x, nullptr).prediction);
  const auto gradients = torch::autograd::grad({loss}, it3::tensors_of(before));
  const at::NoGradGuard no_grad;
  for (std::size_t i = 0; i < before.size(); ++i) before[i].tensor.sub_(0.1 * gradients[i]);
  const at::Tensor by_hand = network->predict(x, nullptr).prediction;
  const double difference = (adapted.prediction - by_hand).abs().max().item<double>();
  std::cout << "loss " << adapted.loss().item<float>() << ", adapted by it3 and by hand: " << difference << " apart\n";
  return difference < 1e-5 ? 0 : 1;
}
