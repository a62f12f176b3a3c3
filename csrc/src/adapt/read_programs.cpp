#include <fstream>

#include <c10/core/ScalarType.h>
#include <c10/util/Exception.h>
#include <nlohmann/json.hpp>

#include <it3/backend/compiled.h>

namespace it3 {
namespace {

using nlohmann::json;

CompiledProgram read_program(const std::string& folder, const std::string& name, const json& known, c10::Device on) {
  std::vector<CompiledProgram::Argument> arguments;
  for (const json& given : known.at("arguments")) {
    const c10::Device compiled_for(given.at(2).get<std::string>());
    arguments.push_back(
        {given.at(0), c10::getStringToDtypeMap().at(given.at(1)), compiled_for.type() == on.type() ? on : compiled_for,
         given.at(3)});
  }
  return {folder + "/" + name + ".pt2", std::move(arguments), known.at("conditions")};
}

}  // namespace

Compiled::Programs Compiled::Programs::read(const std::string& folder, c10::Device device) {
  std::ifstream file(folder + "/programs.json");
  TORCH_CHECK(file.good(), folder, " holds no compiled programs");
  const json record = json::parse(file);
  const json& programs = record.at("programs");
  const auto program = [&](const char* name) { return read_program(folder, name, programs.at(name), device); };
  const auto program_if_any = [&](const char* name) {
    return programs.contains(name) ? std::optional(program(name)) : std::nullopt;
  };
  return {program_if_any("prepare"), program("gradients"), program_if_any("gradients_of_rows"),
          record.at("has_gradient"), program("first"),     program("both")};
}

}  // namespace it3
