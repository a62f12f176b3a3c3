#include "exported/exported_structure.h"

#include <cstdint>
#include <optional>

#include <c10/util/Exception.h>
#include <nlohmann/json.hpp>

namespace it3::detail {
namespace {

using nlohmann::json;

std::size_t leaves_in(const json& structure) {
  if (structure.at("type").is_null()) return 1;
  std::size_t count = 0;
  for (const json& child : structure.at("children_spec")) count += leaves_in(child);
  return count;
}

/// The keys of a container, as far as torch writes them: a list of names or numbers.
json keys_of(const json& structure) {
  const json& context = structure.at("context");
  if (context.is_object() && context.contains("dict_context")) return context.at("dict_context");  // of a defaultdict
  return context.is_string() ? json::parse(context.get<std::string>(), nullptr, /*allow_exceptions=*/false) : json();
}

/// The place among all leaves.
std::size_t place_of(const json& structure, const OutputPath& path, std::size_t depth, const std::string& of) {
  if (depth == path.size()) {
    TORCH_CHECK_VALUE(structure.at("type").is_null(), "the output ", to_text(path), " of ", of, " is no tensor");
    return 0;
  }
  TORCH_CHECK_VALUE(!structure.at("type").is_null(), of, " returns no ", to_text(path));
  const json& children = structure.at("children_spec");
  std::optional<std::size_t> chosen;
  const std::string type = structure.at("type");
  const bool is_dict = type.ends_with("dict") || type.ends_with("Dict");
  const auto* const index = std::get_if<std::int64_t>(&path[depth]);
  if (index != nullptr && !is_dict) {
    const auto size = static_cast<std::int64_t>(children.size());
    if (*index >= -size && *index < size) chosen = static_cast<std::size_t>(*index < 0 ? *index + size : *index);
  } else {
    const json keys = keys_of(structure),
               key = index != nullptr ? json(*index) : json(std::get<std::string>(path[depth]));
    for (std::size_t i = 0; keys.is_array() && i < keys.size(); ++i) {
      if (keys[i] == key) chosen = i;
    }
  }
  TORCH_CHECK_VALUE(chosen && *chosen < children.size(), of, " returns no ", to_text(path));
  std::size_t place = 0;
  for (std::size_t i = 0; i < *chosen; ++i) place += leaves_in(children[i]);
  return place + place_of(children[*chosen], path, depth + 1, of);
}

}  // namespace

std::string value_at(
    const std::string& structure,
    const std::vector<std::string>& values,
    const OutputPath& path,
    const std::string& of) {
  std::size_t place = 0;
  try {
    place = place_of(json::parse(structure).at(1), path, 0, of);
  } catch (const json::exception& error) {
    TORCH_CHECK_VALUE(false, "what ", of, " returns cannot be read: ", error.what());
  }
  TORCH_CHECK_VALUE(
      place < values.size() && !values[place].empty(), "the output ", to_text(path), " of ", of, " is no tensor");
  return values[place];
}

}  // namespace it3::detail
