#include "exported/exported_sizes.h"

#include <algorithm>
#include <functional>
#include <map>
#include <regex>
#include <string>
#include <utility>
#include <vector>

#include <c10/util/Exception.h>

namespace it3::detail {
namespace {

/// A text with what `make` gives in the place of each match.
std::string replaced(
    const std::string& text, const std::regex& pattern, const std::function<std::string(const std::smatch&)>& make) {
  std::string result;
  auto rest = text.cbegin();
  for (std::sregex_iterator match(text.begin(), text.end(), pattern), end; match != end; ++match) {
    result.append(rest, (*match)[0].first);
    result += make(*match);
    rest = (*match)[0].second;
  }
  return result.append(rest, text.cend());
}

std::string size_name(std::size_t input, std::size_t dim) { return c10::str("size_", input, "_", dim); }

bool is_symbol(const std::string& text) { return std::regex_match(text, std::regex("[a-zA-Z_]\\w*")); }
bool is_number(const std::string& text) { return std::regex_match(text, std::regex("\\d+")); }

class Translation {
 public:
  explicit Translation(const ExportedGraph& graph) : graph_(graph) {
    for (std::size_t i = 0; i < graph.inputs.size(); ++i) {
      const auto& sizes = graph.inputs[i].sizes;
      for (std::size_t d = 0; d < sizes.size(); ++d) {
        if (is_symbol(sizes[d])) symbols_.try_emplace(sizes[d], size_name(i, d));
      }
    }
  }

  /// Of sizes: those that are numbers or follow from others are conditions too.
  std::vector<std::string> conditions() const {
    std::vector<std::string> all;
    for (std::size_t i = 0; i < graph_.inputs.size(); ++i) {
      const auto& sizes = graph_.inputs[i].sizes;
      for (std::size_t d = 0; d < sizes.size(); ++d) {
        const std::string name = size_name(i, d);
        const std::string size = is_number(sizes[d]) ? sizes[d] : with_sizes(sizes[d]);
        if (size != name) all.push_back(c10::str(name, " == ", size));
      }
    }
    for (const std::string& condition : graph_.conditions) {
      // Of what is no tensor, and stays as it was when the program was made: "L['k'] == 3".
      const bool is_of_constants =
          condition.find("L[") != std::string::npos && condition.find("].") == std::string::npos;
      if (is_of_constants) continue;
      std::string translated = with_sizes(condition);
      if (std::find(all.begin(), all.end(), translated) == all.end()) all.push_back(std::move(translated));
    }
    return all;
  }

 private:
  /// An expression with the names of sizes in the place of L['x'].size()[0] and of symbols.
  std::string with_sizes(const std::string& text) const {
    static const std::regex source(R"(L((?:\['\w+'\]|\[\d+\])+)\.size\(\)\[(\d+)\])"), symbol(R"([a-zA-Z_]\w*)");
    static const std::regex of_torch(R"(torch\.sym_(min|max))");  // in whose place torch before 2.14 has min and max
    const std::string plain = std::regex_replace(text, of_torch, "$1");
    const std::string sizes = replaced(plain, source, [&](const std::smatch& match) {
      return size_name(input_at(match[1], text), std::stoul(match[2]));
    });
    return replaced(sizes, symbol, [&](const std::smatch& match) {
      const auto known = symbols_.find(match[0]);
      return known != symbols_.end() ? known->second : match[0].str();
    });
  }

  /// ['x'][0] is the input x_0.
  std::size_t input_at(const std::string& path, const std::string& text) const {
    static const std::regex part(R"(\w+)");
    std::string name;
    for (std::sregex_iterator match(path.begin(), path.end(), part), end; match != end; ++match) {
      name += c10::str(name.empty() ? "" : "_", match->str());
    }
    const auto found = std::find_if(
        graph_.inputs.begin(), graph_.inputs.end(), [&](const ExportedInput& input) { return input.value == name; });
    TORCH_CHECK_VALUE(
        found != graph_.inputs.end(), "the exported program has the condition ", text, ", but no input '", name, "'");
    return static_cast<std::size_t>(found - graph_.inputs.begin());
  }

  const ExportedGraph& graph_;
  std::map<std::string, std::string> symbols_;  // and where they are sizes first
};

}  // namespace

std::shared_ptr<const SizeConditions> size_conditions_of(const ExportedGraph& graph) {
  std::vector<std::size_t> dims(graph.inputs.size());
  std::transform(graph.inputs.begin(), graph.inputs.end(), dims.begin(), [](const ExportedInput& input) {
    return input.sizes.size();
  });
  return std::make_shared<const SizeConditions>(Translation(graph).conditions(), std::move(dims));
}

bool depends_on_values(const std::string& size) {
  static const std::regex symbol(R"(\bz?u[fi]?\d+\b)");
  return std::regex_search(size, symbol);
}

}  // namespace it3::detail
