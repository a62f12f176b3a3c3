#include "method/option_table.h"

#include <algorithm>
#include <cmath>
#include <sstream>
#include <type_traits>
#include <utility>

#include <c10/util/Exception.h>

#include "support/nearest_name.h"

namespace it3::detail {
namespace {

/// As Python writes it: a whole number that is none by its type shows that.
std::string number_text(double value) {
  std::ostringstream text;
  text << value;
  if (std::isfinite(value) && text.str().find_first_of(".e") == std::string::npos) text << ".0";
  return text.str();
}

[[noreturn]] void refuse_type(const OptionInfo& info, const OptionValue& value) {
  C10_THROW_ERROR(TypeError, c10::str(info.name, " must be ", info.accepted, ", not ", to_text(value)));
}

void check(bool is_accepted, const OptionInfo& info, const OptionValue& value) {
  TORCH_CHECK_VALUE(is_accepted, info.name, " must be ", info.accepted, ", not ", to_text(value));
}

template <typename T>
struct IsOptional : std::false_type {};
template <typename T>
struct IsOptional<std::optional<T>> : std::true_type {};

bool is_none(const OptionValue& value) { return std::holds_alternative<std::monostate>(value); }

/// An option that is one member of Options. If the member is optional, None unsets it.
///
/// @param convert  (info, value) -> what is assigned; raises for values that are not accepted
/// @param show  what is assigned -> the value
template <typename Member, typename Convert, typename Show>
Option option(OptionInfo info, Member Options::* member, const Convert& convert, const Show& show) {
  if constexpr (IsOptional<Member>::value) {
    info.type += " | None";
    info.accepted += ", or None";
  }
  const auto set = [info, member, convert](Options& options, const OptionValue& value) {
    if constexpr (IsOptional<Member>::value) {
      if (is_none(value)) {
        options.*member = std::nullopt;
        return;
      }
    }
    options.*member = convert(info, value);
  };
  const auto get = [member, show](const Options& options) -> OptionValue {
    if constexpr (IsOptional<Member>::value) {
      return options.*member ? show(*(options.*member)) : OptionValue();
    } else {
      return show(options.*member);
    }
  };
  info.default_text = to_text(get(Options()));
  return {std::move(info), set, get};
}

/// Which numbers an option takes.
struct Range {
  const char* accepted;
  bool (*has)(double);
};

constexpr Range from_zero = {"a number, 0 or more", [](double v) { return std::isfinite(v) && v >= 0; }};
constexpr Range share = {"a number from 0 to 1", [](double v) { return v >= 0 && v <= 1; }};
constexpr Range above_zero = {"a number above 0", [](double v) { return v > 0; }};  // infinity is no limit
constexpr Range above_one = {"a number above 1", [](double v) { return v > 1; }};

template <typename Member>
Option number(const char* name, Member Options::* member, Range range, const char* documentation) {
  return option(
      {name, "float", range.accepted, "", documentation}, member,
      [range](const OptionInfo& info, const OptionValue& value) {
        const auto* const real = std::get_if<double>(&value);
        const auto* const whole = std::get_if<std::int64_t>(&value);
        if (real == nullptr && whole == nullptr) refuse_type(info, value);
        const double v = real != nullptr ? *real : static_cast<double>(*whole);
        check(range.has(v), info, value);
        return v;
      },
      [](double v) { return v; });
}

template <typename Member>
Option whole_number(const char* name, Member Options::* member, std::int64_t least, const char* documentation) {
  return option(
      {name, "int", c10::str("a whole number, ", least, " or more"), "", documentation}, member,
      [least](const OptionInfo& info, const OptionValue& value) {
        const auto* const whole = std::get_if<std::int64_t>(&value);
        if (whole == nullptr) refuse_type(info, value);
        check(*whole >= least, info, value);
        return *whole;
      },
      [](std::int64_t v) { return v; });
}

Option boolean(const char* name, bool Options::* member, const char* documentation) {
  return option(
      {name, "bool", "True or False", "", documentation}, member,
      [](const OptionInfo& info, const OptionValue& value) {
        if (!std::holds_alternative<bool>(value)) refuse_type(info, value);
        return std::get<bool>(value);
      },
      [](bool v) { return v; });
}

using Names = std::vector<std::string_view>;

std::string literal_of(const Names& names) {
  std::string type;
  for (const auto name : names) type += c10::str(type.empty() ? "" : ", ", '"', name, '"');
  return "Literal[" + type + "]";
}

/// The place of a name among others.
std::size_t place_of(const OptionInfo& info, const OptionValue& value, const Names& names) {
  const auto* const name = std::get_if<std::string>(&value);
  if (name == nullptr) refuse_type(info, value);
  const auto found = std::find(names.begin(), names.end(), *name);
  check(found != names.end(), info, value);
  return static_cast<std::size_t>(found - names.begin());
}

/// @param names  in the order of the enumeration, or of false and true
template <typename Kind>
Option choice(const char* name, Kind Options::* member, const Names& names, const char* documentation) {
  return option(
      {name, literal_of(names), "one of " + join(names), "", documentation}, member,
      [names](const OptionInfo& info, const OptionValue& value) {
        return static_cast<Kind>(place_of(info, value, names));
      },
      [names](Kind kind) -> OptionValue {
        const auto place = static_cast<std::int64_t>(kind);
        // A number that is no enumerator is shown as that, for set() to refuse.
        if (place < 0 || place >= static_cast<std::int64_t>(names.size())) return place;
        return std::string(names[static_cast<std::size_t>(place)]);
      });
}

/// A choice that has earlier spellings.
Option anchor(const char* name, const char* documentation) {
  Option option = choice(name, &Options::anchor, {"self", "frozen", "frozen_tail", "ema"}, documentation);
  option.set = [set = option.set](Options& options, const OptionValue& value) {
    const auto* const spelling = std::get_if<std::string>(&value);
    const bool is_earlier = is_none(value) || (spelling != nullptr && *spelling == "none");
    set(options, is_earlier ? OptionValue(std::string("self")) : value);
  };
  return option;
}

Option betas(const char* name, const char* documentation) {
  return option(
      {name, "tuple[float, float]", "two numbers from 0 to below 1", "", documentation}, &Options::betas,
      [](const OptionInfo& info, const OptionValue& value) {
        const auto* const pair = std::get_if<std::vector<double>>(&value);
        if (pair == nullptr) refuse_type(info, value);
        const auto in_range = [](double beta) { return beta >= 0 && beta < 1; };
        check(pair->size() == 2 && in_range((*pair)[0]) && in_range((*pair)[1]), info, value);
        return std::pair((*pair)[0], (*pair)[1]);
      },
      [](const std::pair<double, double>& pair) { return std::vector<double>{pair.first, pair.second}; });
}

Option parameters(const char* name, const char* documentation) {
  return option(
      {name, "str | Sequence[str]", "'all', 'norm', or one or more patterns of parameter names", "", documentation},
      &Options::parameters,
      [](const OptionInfo& info, const OptionValue& value) -> std::vector<std::string> {
        if (const auto* const one = std::get_if<std::string>(&value)) return {*one};
        const auto* const many = std::get_if<std::vector<std::string>>(&value);
        if (many == nullptr) refuse_type(info, value);
        check(!many->empty(), info, value);
        return *many;
      },
      [](const std::vector<std::string>& patterns) { return patterns; });
}

Option amp(const char* name, const char* documentation) {
  static const Names names = {"bf16", "fp16"};
  static constexpr at::ScalarType types[] = {at::kBFloat16, at::kHalf};
  return option(
      {name, literal_of(names), "one of " + join(names), "", documentation}, &Options::amp,
      [](const OptionInfo& info, const OptionValue& value) { return types[place_of(info, value, names)]; },
      [](at::ScalarType type) -> OptionValue {
        const auto* const found = std::find(std::begin(types), std::end(types), type);
        if (found == std::end(types)) return std::string(at::toString(type));
        return std::string(names[static_cast<std::size_t>(found - std::begin(types))]);
      });
}

}  // namespace

std::string to_text(const OptionValue& value) {
  std::ostringstream text;
  const auto list = [&](const auto& items, const char* quote) {
    text << '[';
    for (std::size_t i = 0; i < items.size(); ++i) text << (i ? ", " : "") << quote << items[i] << quote;
    text << ']';
  };
  if (std::holds_alternative<std::monostate>(value)) text << "None";
  if (const auto* v = std::get_if<bool>(&value)) text << (*v ? "True" : "False");
  if (const auto* v = std::get_if<std::int64_t>(&value)) text << *v;
  if (const auto* v = std::get_if<double>(&value)) text << number_text(*v);
  if (const auto* v = std::get_if<std::string>(&value)) text << '\'' << *v << '\'';
  if (const auto* v = std::get_if<std::vector<double>>(&value)) list(*v, "");
  if (const auto* v = std::get_if<std::vector<std::string>>(&value)) list(*v, "'");
  return text.str();
}

const std::vector<std::string_view>& optimizer_names() {
  static const Names names = {"adam", "adamw", "sgd", "rmsprop", "adagrad"};
  return names;
}

const std::vector<Option>& option_table() {
  static const std::vector<Option> table = {
      choice(
          "optimizer_name", &Options::optimizer_name, optimizer_names(),
          "The optimizer of the inner loop, with the update rule of torch.optim."),
      whole_number(
          "num_steps", &Options::num_steps, 0,
          "Optimizer steps in each call. With 0, the network predicts without adapting."),
      number(
          "lr", &Options::lr, from_zero,
          "Learning rate; 1e-5 to 1e-3 is usual. torch-ttt's default is 1e-2, which ruins many networks."),
      betas("betas", "Decay rates of the two moments of adam and adamw. None: (0.9, 0.999)."),
      number(
          "eps", &Options::eps, from_zero,
          "Added to the denominator by every optimizer but sgd. None: 1e-8; for adagrad 1e-10."),
      number(
          "weight_decay", &Options::weight_decay, from_zero,
          "L2 penalty; adamw decays the weights themselves. None: 0; for adamw 1e-2."),
      number("momentum", &Options::momentum, from_zero, "Momentum of sgd and rmsprop. None: 0."),
      number(
          "max_grad_norm", &Options::max_grad_norm, above_zero,
          "The largest Euclidean norm of the gradients of all parameters together; larger gradients are scaled down to "
          "it. None: gradients are not scaled."),
      parameters(
          "parameters",
          "Which parameters adapt: `\"all\"` that require gradients; `\"norm\"`, the scales and shifts of "
          "normalization layers; or a pattern or a list of patterns of dotted names, such as `[\"encoder.*\", "
          "\"head.bias\"]`. A pattern selects a parameter by its own name or by the name of a module around it. `*`, "
          "`?` and `[...]` mean what they mean in a shell."),
      anchor(
          "anchor",
          "The network F that makes the second prediction, y1 = F(x | y0), while f adapts. `\"self\"`: f itself, so "
          "that both predictions are pulled toward one another, as in torch-ttt. `\"frozen\"`: f as it was at the "
          "start, so that f cannot learn to accept a wrong y0; this is the paper's choice. `\"frozen_tail\"`: only the "
          "part behind the layer is as it was at the start, and it runs on the features of the adapting f; the network "
          "has to be cut at its layer. `\"ema\"`: a moving average of f's weights, F ← `ema_decay` F + (1 − "
          "`ema_decay`) f after each step; this is the paper's online variant, for `copy_model=False`."),
      number("ema_decay", &Options::ema_decay, share, "Decay of `anchor=\"ema\"`. None: 0.99."),
      choice(
          "norm_statistics", &Options::norm_statistics, {"running", "batch", "blend"},
          "The mean and variance by which batch normalization in eval mode normalizes, in all passes: the "
          "`\"running\"` statistics, those of the `\"batch\"`, or a `\"blend\"` of both. The stored statistics never "
          "change, dropout stays off, and a batch of one sample is safe."),
      number(
          "norm_prior", &Options::norm_prior, from_zero,
          "The number of samples that the running statistics count as in `norm_statistics=\"blend\"`. None: 16."),
      choice(
          "prediction", &Options::prediction, {"first", "second", "mean"},
          "Which prediction of the adapted network is the answer: `\"first\"` is y0, `\"second\"` is y1, and "
          "`\"mean\"` is the mean of both."),
      number(
          "tolerance", &Options::tolerance, from_zero,
          "Steps end early if the loss has not fallen below its minimum so far by more than this fraction of it, "
          "`patience` times in a row. The CPU then waits for the device at each step. None: all steps are taken."),
      whole_number(
          "patience", &Options::patience, 1,
          "The number of evaluations in a row without such a fall, see `tolerance`, after which steps end. None: 1."),
      number(
          "threshold", &Options::threshold, from_zero,
          "Only samples whose uncertainty exceeds it adapt; the others contribute neither to the loss nor to "
          "gradients. Samples whose uncertainty or inputs are not finite never adapt, but −∞ in inputs is allowed, as "
          "attention masks contain it. `engine.calibrate(clean_batches)` sets it. None: all samples adapt."),
      boolean(
          "per_sample", &Options::per_sample,
          "Whether each sample of the batch adapts weights of its own, as if it were alone. The samples adapt together "
          "if the model can be cut and vectorized; else one after another, with a warning. The loss is then (B,). "
          "Needs `copy_model`."),
      whole_number(
          "chunk_size", &Options::chunk_size, 1,
          "How many samples adapt at once with `per_sample`. None: as many as fit into half of the free memory."),
      boolean(
          "copy_model", &Options::copy_model,
          "Whether every call starts from the same weights and leaves them as they were. With False, adapted weights, "
          "optimizer state and anchor are kept from call to call, until `engine.reset()`. `online=True` is another "
          "spelling of `copy_model=False`."),
      number(
          "restore_probability", &Options::restore_probability, share,
          "The probability with which each weight goes back to its value at the start after each step: the stochastic "
          "restoration of CoTTA, arXiv 2203.13591."),
      number(
          "recovery_factor", &Options::recovery_factor, above_one,
          "Weights, optimizer and anchor go back to the start if m exceeds `recovery_factor` times its minimum so far, "
          "or if a loss or prediction is not finite; the batch then adapts from there. m is the moving average over "
          "calls of the loss before the first step, m ← 0.9 m + 0.1 loss. For `copy_model=False`. None: never."),
      choice(
          "cuda_graphs", &Options::cuda_graphs, {"off", "auto"},
          "Whether calls on a CUDA device may be replayed as CUDA graphs. With `\"auto\"`, the second call with the "
          "same shapes and options is recorded, and later ones replay it, where that is possible; "
          "`engine.explain(inputs)` says where it is not. With `\"off\"`, nothing is recorded."),
      amp("amp",
          "Runs the passes in mixed precision by autocast, in `\"bf16\"` or `\"fp16\"`. Weights, losses, gradients and "
          "predictions stay float32. In fp16, gradients are scaled while they are computed, so that small ones do not "
          "vanish. None: the passes run in the model's own precision."),
  };
  return table;
}

}  // namespace it3::detail
