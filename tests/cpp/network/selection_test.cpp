#include "network_fixture.h"

namespace it3::test {
namespace {

std::vector<std::string> selected(
    const std::vector<NamedParameter>& parameters, const std::vector<std::string>& patterns) {
  std::vector<std::string> names;
  for (const auto& parameter : select_parameters(parameters, patterns)) names.push_back(parameter.name);
  return names;
}

TEST(SelectParameters, TakesNamesModulesAndPatterns) {
  using Names = std::vector<std::string>;
  Net net;
  net->last->weight.set_requires_grad(false);
  const auto parameters = ModuleNetwork(net).parameters();
  EXPECT_EQ(selected(parameters, {"all"}).size(), 7);
  EXPECT_EQ(selected(parameters, {"norm"}), (Names{"norm.weight", "norm.bias"}));
  EXPECT_EQ(selected(parameters, {"first"}), (Names{"first.weight", "first.bias"}));
  EXPECT_EQ(selected(parameters, {"last.bias", "first.w*"}), (Names{"first.weight", "last.bias"}));
  EXPECT_EQ(selected(parameters, {"last"}), (Names{"last.bias"}));
  EXPECT_THROW(selected(parameters, {"fir"}), c10::ValueError);
  EXPECT_THROW(selected(parameters, {"first", "last.weight"}), c10::ValueError);
}

TEST(SelectParameters, NeedsSomethingToAdapt) {
  Net net;
  for (const auto& parameter : net->parameters()) parameter.set_requires_grad(false);
  EXPECT_THROW(selected(ModuleNetwork(net).parameters(), {"all"}), c10::ValueError);
  EXPECT_THROW(selected({}, {"all"}), c10::ValueError);
}

}  // namespace
}  // namespace it3::test
