#include <it3/backend/output_path.h>

#include <algorithm>
#include <charconv>

#include <ATen/core/Dict.h>
#include <ATen/core/List.h>
#include <ATen/core/function_schema.h>
#include <c10/util/Exception.h>

namespace it3 {
namespace {

using Part = std::variant<std::int64_t, std::string>;

constexpr std::string_view digits = "0123456789";

bool is_integer(std::string_view text) {
  if (text.starts_with('-')) text.remove_prefix(1);
  return !text.empty() && text.find_first_not_of(digits) == std::string_view::npos;
}

std::string quoted(const std::string& name) {
  std::string text = "\"";
  for (const char c : name) {
    if (c == '"' || c == '\\') text += '\\';
    text += c;
  }
  return text + '"';
}

std::string text_of_part(const Part& part) {
  if (const auto* index = std::get_if<std::int64_t>(&part)) return std::to_string(*index);
  const auto& name = std::get<std::string>(part);
  const bool is_plain = !name.empty() && !is_integer(name) && name.find_first_of(".\"\\") == std::string::npos;
  return is_plain ? name : quoted(name);
}

[[noreturn]] void refuse(std::string_view text, std::string_view why) {
  TORCH_CHECK_VALUE(
      false, "'", text, "' is not a valid output path: ", why,
      ". Write indices and names separated by dots, such as 1, logits or 1.0, and put names that contain dots or only "
      "digits in double quotes");
}

/// Takes a name in quotes off the front.
std::string take_quoted(std::string_view& rest, std::string_view text) {
  std::string name;
  rest.remove_prefix(1);
  while (!rest.empty() && rest.front() != '"') {
    if (rest.front() == '\\') rest.remove_prefix(1);
    if (rest.empty()) break;
    name += rest.front();
    rest.remove_prefix(1);
  }
  if (rest.empty()) refuse(text, "a closing quote is missing");
  rest.remove_prefix(1);
  return name;
}

Part plain_part(std::string_view part, std::string_view text) {
  if (part.empty()) refuse(text, "it has an empty part");
  if (part.find('"') != std::string_view::npos) refuse(text, "a quote stands within a name");
  if (!is_integer(part)) return std::string(part);
  std::int64_t index = 0;
  const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), index);
  if (error != std::errc() || end != part.data() + part.size()) refuse(text, "an index is too large");
  return index;
}

void visit(const c10::IValue& value, OutputPath& path, std::vector<PlacedTensor>& found) {
  const auto into = [&](Part part, const c10::IValue& element) {
    path.push_back(std::move(part));
    visit(element, path, found);
    path.pop_back();
  };
  if (value.isTensor()) {
    if (value.toTensor().defined()) found.push_back({path, value.toTensor()});
  } else if (value.isTuple()) {
    const auto& elements = value.toTupleRef().elements();
    const auto type = value.toTupleRef().type();
    for (std::size_t i = 0; i < elements.size(); ++i) {
      if (type->schema() != nullptr) {
        into(type->schema()->arguments()[i].name(), elements[i]);
      } else {
        into(static_cast<std::int64_t>(i), elements[i]);
      }
    }
  } else if (value.isList()) {
    const auto list = value.toList();
    for (std::size_t i = 0; i < list.size(); ++i) into(static_cast<std::int64_t>(i), list.get(i));
  } else if (value.isGenericDict()) {
    for (const auto& item : value.toGenericDict()) {
      if (item.key().isString()) into(item.key().toStringRef(), item.value());
      if (item.key().isInt()) into(item.key().toInt(), item.value());
    }
  }
}

/// The element of a container; nothing if there is none.
std::optional<c10::IValue> element_at(const c10::IValue& value, const Part& part) {
  const auto* const index = std::get_if<std::int64_t>(&part);
  const auto* const name = std::get_if<std::string>(&part);
  const auto place_in = [&](std::size_t count) -> std::optional<std::size_t> {
    if (index == nullptr) return std::nullopt;
    const auto size = static_cast<std::int64_t>(count);
    if (*index < -size || *index >= size) return std::nullopt;
    return static_cast<std::size_t>(*index < 0 ? *index + size : *index);
  };
  if (value.isTuple()) {
    const auto& elements = value.toTupleRef().elements();
    if (name != nullptr) {
      const auto type = value.toTupleRef().type();
      const auto place = type->schema() != nullptr ? type->schema()->argumentIndexWithName(*name) : std::nullopt;
      return place ? std::optional<c10::IValue>(elements[static_cast<std::size_t>(*place)]) : std::nullopt;
    }
    const auto place = place_in(elements.size());
    return place ? std::optional<c10::IValue>(elements[*place]) : std::nullopt;
  }
  if (value.isList()) {
    const auto list = value.toList();
    const auto place = place_in(list.size());
    return place ? std::optional<c10::IValue>(list.get(*place)) : std::nullopt;
  }
  if (value.isGenericDict()) {
    for (const auto& item : value.toGenericDict()) {
      if (name != nullptr && item.key().isString() && item.key().toStringRef() == *name) return item.value();
      if (index != nullptr && item.key().isInt() && item.key().toInt() == *index) return item.value();
    }
  }
  return std::nullopt;
}

/// "logits (4, 10), 1 (4, 5)", with a limit.
std::string listed(const std::vector<PlacedTensor>& candidates) {
  constexpr std::size_t most = 20;
  std::string text;
  for (std::size_t i = 0; i < std::min(candidates.size(), most); ++i) {
    const auto& [path, tensor] = candidates[i];
    std::string shape;
    for (const auto size : tensor.sizes()) shape += (shape.empty() ? "" : ", ") + std::to_string(size);
    text += (i == 0 ? "" : ", ") + (path.empty() ? std::string("itself") : to_text(path)) + " of shape (" + shape + ")";
  }
  return candidates.size() > most ? text + c10::str(" and ", candidates.size() - most, " more") : text;
}

}  // namespace

std::string to_text(const OutputPath& path) {
  std::string text;
  for (const auto& part : path) {
    if (!text.empty()) text += '.';
    text += text_of_part(part);
  }
  return text;
}

OutputPath parse_output_path(std::string_view text) {
  OutputPath path;
  std::string_view rest = text;
  while (!text.empty()) {
    if (rest.starts_with('"')) {
      path.emplace_back(take_quoted(rest, text));
    } else {
      const std::string_view part = rest.substr(0, rest.find('.'));
      path.push_back(plain_part(part, text));
      rest.remove_prefix(part.size());
    }
    if (rest.empty()) break;
    if (!rest.starts_with('.')) refuse(text, "something follows a quote");
    rest.remove_prefix(1);
  }
  return path;
}

std::vector<PlacedTensor> tensors_with_paths(const c10::IValue& value) {
  std::vector<PlacedTensor> found;
  OutputPath path;
  visit(value, path, found);
  return found;
}

at::Tensor tensor_at(
    const c10::IValue& value, const std::optional<OutputPath>& path, std::string_view what, std::string_view option) {
  if (value.isTensor() && value.toTensor().defined() && (!path || path->empty())) return value.toTensor();
  if (path) {
    std::optional<c10::IValue> element = value;
    for (const auto& part : *path) {
      element = element_at(*element, part);
      if (!element) break;
    }
    if (element && element->isTensor() && element->toTensor().defined()) return element->toTensor();
    const auto candidates = tensors_with_paths(value);
    TORCH_CHECK_VALUE(
        false, option, " is '", to_text(*path), "', but ", what, ", a ", value.tagKind(), ", has no tensor there; ",
        candidates.empty() ? std::string("it has no tensors at all") : "it has tensors at: " + listed(candidates));
  }
  const auto candidates = tensors_with_paths(value);
  TORCH_CHECK_TYPE(
      !candidates.empty(), what, " is a ", value.tagKind(),
      " that holds no tensor; it must be a tensor, or a tuple, list or dict with one");
  TORCH_CHECK_VALUE(
      candidates.size() == 1, what, " holds ", candidates.size(), " tensors; say which one is meant by ", option,
      ". They are: ", listed(candidates));
  return candidates[0].tensor;
}

}  // namespace it3
