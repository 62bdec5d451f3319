// The rules of the house about operators that only the registry can show.
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <set>
#include <sstream>

#include "graph/schema.h"
#include "ops/op.h"
#include "tests/support/paths.h"

namespace graft {
namespace {

std::string name_of(const Op& op) { return (op.domain.empty() ? "" : op.domain + ".") + op.type; }

std::vector<const Op*> sorted_ops() {
  std::vector<const Op*> ops = all_ops();
  std::sort(ops.begin(), ops.end(), [](const Op* a, const Op* b) { return name_of(*a) < name_of(*b); });
  return ops;
}

bool has_kernel(const std::vector<KernelEntry>& kernels, DType dtype) {
  return std::any_of(kernels.begin(), kernels.end(),
                     [dtype](const auto& entry) { return contains(entry.dtypes, dtype); });
}

TEST(OperatorRules, PrivateOperatorsInferTheirResults) {
  for (const Op* op : sorted_ops()) {
    if (op->domain == "graft") EXPECT_TRUE(op->infer) << name_of(*op) << " has no schema and no infer";
    else EXPECT_TRUE(schema::known(op->domain, op->type)) << name_of(*op) << " is not an operator of ONNX";
  }
}

TEST(OperatorRules, EveryKernelHasItsThreeMeetings) {
  for (const Op* op : sorted_ops()) {
    for (const auto* kernels : {&op->cpu, &op->cuda}) {
      for (const auto& entry : *kernels) {
        EXPECT_TRUE(entry.functions.propose && entry.functions.settle && entry.functions.prepare) << name_of(*op);
        EXPECT_NE(entry.dtypes, DTypes::none) << name_of(*op);
      }
    }
  }
}

TEST(OperatorRules, GradientStatusIsConsistent) {
  for (const Op* op : sorted_ops()) {
    EXPECT_EQ(op->gradient == GradientStatus::rule, op->differentiate != nullptr) << name_of(*op);
  }
}

// The reference of gradient checks is float64 throughout.
TEST(OperatorRules, DifferentiableOperatorsHaveFloat64Kernels) {
  for (const Op* op : sorted_ops()) {
    if (op->gradient != GradientStatus::rule || op->cpu.empty()) continue;
    EXPECT_TRUE(has_kernel(op->cpu, DType::f32)) << name_of(*op);
    EXPECT_TRUE(has_kernel(op->cpu, DType::f64)) << name_of(*op);
  }
}

// What ONNX calls differentiable and we do not, with the reason.
const std::map<std::string, std::string> zero_all_the_same = {};

TEST(OperatorRules, GradientStatusAgreesWithOnnx) {
  ASSERT_EQ(schema::differentiable("Add", 0), std::optional(true));
  ASSERT_EQ(schema::differentiable("Gather", 1), std::optional(false));
  std::set<std::string> used;
  for (const Op* op : sorted_ops()) {
    if (!op->domain.empty()) continue;
    for (size_t input = 0; input < 8; ++input) {
      auto tag = schema::differentiable(op->type, input);
      if (!tag || !*tag || op->gradient != GradientStatus::zero) continue;
      used.insert(op->type);
      EXPECT_TRUE(zero_all_the_same.count(op->type))
          << name_of(*op) << ": ONNX tags input " << input << " as differentiable, here its gradient is silently zero";
    }
  }
  for (const auto& [type, reason] : zero_all_the_same) EXPECT_TRUE(used.count(type)) << type << " is no exception";
}

// ONNX's multidirectional broadcasting, and PRelu's of its slope; the engine un-broadcasts the gradients of these
// alone.
TEST(OperatorRules, BroadcastingOperatorsSaySo) {
  const std::set<std::string> broadcasting = {"Add",        "And",         "BitShift", "BitwiseAnd", "BitwiseOr",
                                              "BitwiseXor", "Div",         "Equal",    "Greater",    "GreaterOrEqual",
                                              "Less",       "LessOrEqual", "Max",      "Mean",       "Min",
                                              "Mod",        "Mul",         "Or",       "Pow",        "PRelu",
                                              "Sub",        "Sum",         "Where",    "Xor"};
  for (const Op* op : sorted_ops()) {
    if (!op->domain.empty() || op->gradient != GradientStatus::rule) continue;
    EXPECT_EQ(op->broadcasts, broadcasting.count(op->type) > 0) << name_of(*op);
  }
}

// The operators in a paragraph of the README: `heading: A, B, C.`
std::vector<std::string> readme_list(const std::string& heading) {
  std::ifstream in(test::source_dir() + "/README.md");
  std::stringstream text;
  text << in.rdbuf();
  std::string all = text.str();
  size_t begin = all.find(heading + ": ");
  if (begin == std::string::npos) return {};
  begin += heading.size() + 2;
  std::istringstream words(all.substr(begin, all.find('.', begin) - begin));
  std::vector<std::string> names;
  for (std::string word; words >> word;) names.push_back(word.substr(0, word.find(',')));
  return names;
}

// What it leaves out is no lie: a new operator needs no new line there.
TEST(OperatorRules, ReadmeClaimsNoOperatorThatIsNotThere) {
  auto status_of = [](const std::string& type) {
    const Op* op = find_op("", type);
    return op ? op->gradient : GradientStatus::unsupported;
  };
  std::vector<std::string> with_rule = readme_list("Operators with gradients");
  std::vector<std::string> without = readme_list("Operators whose gradient is zero by definition");
  EXPECT_GT(with_rule.size(), 50U);
  EXPECT_GT(without.size(), 10U);
  for (const auto& type : with_rule) EXPECT_EQ(status_of(type), GradientStatus::rule) << type;
  for (const auto& type : without) EXPECT_EQ(status_of(type), GradientStatus::zero) << type;
}

}  // namespace
}  // namespace graft
