#include "tests/support/check_op.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "graph/passes/passes.h"
#include "ops/op.h"
#include "runtime/evaluate.h"
#include "tests/support/text_graph.h"

namespace graft::test {

Tensor random_feed(DType dtype, const Dims& dims, double low, double high, unsigned seed) {
  std::mt19937 random(seed);
  Tensor tensor(is_float(dtype) ? DType::f32 : DType::i64, dims);
  std::uniform_real_distribution<float> real(static_cast<float>(low), static_cast<float>(high));
  std::uniform_int_distribution<int64_t> whole(static_cast<int64_t>(low), static_cast<int64_t>(high));
  for (int64_t i = 0; i < tensor.count(); ++i) {
    if (is_float(dtype)) tensor.data<float>()[i] = real(random);
    else tensor.data<int64_t>()[i] = dtype == DType::boolean ? whole(random) % 2 : whole(random);
  }
  return tensor.cast(dtype);
}

void expect_close(const Tensor& got, const Tensor& expected, double tolerance, const std::string& what) {
  ASSERT_EQ(got.dtype(), expected.dtype()) << what;
  ASSERT_EQ(got.dims(), expected.dims()) << what;
  if (!is_float(got.dtype())) {
    ASSERT_EQ(got.to_int64(), expected.to_int64()) << what;
    return;
  }
  Tensor a = got.cast(DType::f64);
  Tensor b = expected.cast(DType::f64);
  int64_t wrong = 0;
  for (int64_t i = 0; i < a.count(); ++i) {
    double x = a.data<double>()[i];
    double y = b.data<double>()[i];
    bool same =
        x == y || (std::isnan(x) && std::isnan(y)) || std::fabs(x - y) <= tolerance * std::max(1.0, std::fabs(y));
    if (same) continue;
    if (wrong++ == 0)
      ADD_FAILURE() << what << " of " << cat(got.dims()) << " at element " << i << ": got " << x << ", expected " << y;
  }
  EXPECT_EQ(wrong, 0) << what << ": so many elements differ";
}

namespace {

double dot(const Tensor& a, const Tensor& b) {
  double sum = 0;
  for (int64_t i = 0; i < a.count(); ++i) sum += a.data<double>()[i] * b.data<double>()[i];
  return sum;
}

std::vector<double> elements(const Tensor& tensor) {
  Tensor wide = tensor.cast(DType::f64);
  auto values = wide.values<double>();
  return {values.begin(), values.end()};
}

double norm(const std::vector<double>& v) {
  double sum = 0;
  for (double x : v) sum += x * x;
  return std::sqrt(sum);
}

Feeds cast_floats(const Feeds& feeds, DType dtype) {
  Feeds cast;
  for (const auto& [name, tensor] : feeds) cast[name] = tensor.dtype() == DType::f32 ? tensor.cast(dtype) : tensor;
  return cast;
}

class Check {
 public:
  Check(const std::string& text, const Feeds& feeds, const OpCheck& check)
      : text_(text), check_(check), graph32_(graph_from_text(text)), graph64_(graph_from_text(text, DType::f64)) {
    unsigned seed = 1;
    for (const Value* input : graph32_->inputs) {
      ++seed;
      auto given = feeds.find(input->name);
      if (given != feeds.end()) {
        feeds32_[input->name] = given->second;
        continue;
      }
      auto range = check.ranges.find(input->name);
      double low = is_float(input->dtype) ? -2 : 0;
      double high = is_float(input->dtype) ? 2 : 3;
      if (range != check.ranges.end()) std::tie(low, high) = range->second;
      feeds32_[input->name] = random_feed(input->dtype, input->dims, low, high, seed);
    }
    feeds64_ = cast_floats(feeds32_, DType::f64);
  }

  void forward() const {
    auto got32 = evaluate(*graph32_, feeds32_);
    auto got64 = evaluate(*graph64_, feeds64_);
    auto expected = reference_outputs(model_from_text(text_), feeds32_, check_.oracle);
    ASSERT_EQ(got32.size(), expected.size());
    for (size_t i = 0; i < expected.size(); ++i) {
      std::string output = cat("output ", i);
      expect_close(got32[i], expected[i], check_.tolerance, output + " in float32");
      expect_close(got64[i], expected[i].dtype() == DType::f32 ? expected[i].cast(DType::f64) : expected[i],
                   check_.tolerance, output + " in float64");
    }
  }

  void gradient() {
    choose_seeds();
    if (wanted().empty() || seeds_.empty()) return;
    auto got64 = gradients(DType::f64);
    auto got32 = gradients(DType::f32);
    std::map<std::string, std::vector<double>> expected, got;
    std::vector<double> all;
    for (const std::string& name : wanted()) {
      for (int64_t i : sample(feeds64_.at(name).count())) {
        expected[name].push_back(central_difference(name, i));
        got[name].push_back(got64.at(name).data<double>()[i]);
      }
      all.insert(all.end(), expected[name].begin(), expected[name].end());
    }
    double global = norm(all);
    for (const std::string& name : wanted()) {
      compare(got[name], expected[name], check_.gradient_tolerance, global,
              "float64 gradient of " + name + " against central differences");
      compare(elements(got32.at(name)), elements(got64.at(name)), check_.gradient_tolerance_f32, global,
              "float32 gradient of " + name + " against float64");
    }
  }

 private:
  std::vector<std::string> wanted() const {
    std::vector<std::string> names;
    for (const Value* input : graph32_->inputs) {
      if (is_float(input->dtype) && !check_.fixed.count(input->name)) names.push_back(input->name);
    }
    return names;
  }

  // d(sum of seeds * outputs) is checked: a random seed for each floating-point output.
  void choose_seeds() {
    for (size_t i = 0; i < graph32_->outputs.size(); ++i) {
      const Value* output = graph32_->outputs[i];
      if (!is_float(output->dtype) || output->role != Role::result) continue;
      seeds_[i] = random_feed(output->dtype, output->dims, -1, 1, 100 + static_cast<unsigned>(i));
    }
  }

  // Gradients of all wanted inputs by name, zeros where none flows.
  std::map<std::string, Tensor> gradients(DType floats) const {
    auto graph = graph_from_text(text_, floats);
    Feeds feeds = cast_floats(feeds32_, floats);
    std::vector<Value*> targets, seeds, inputs;
    for (const auto& [output, seed] : seeds_) {
      targets.push_back(graph->outputs[output]);
      std::string name = cat("seed ", output);
      seeds.push_back(graph->add_input(name, targets.back()->dtype, seed.dims()));
      feeds[name] = seed.cast(targets.back()->dtype);
    }
    for (const std::string& name : wanted()) inputs.push_back(graph->find(name));
    std::vector<Value*> found = differentiate(*graph, targets, seeds, inputs);
    graph->outputs.clear();
    for (Value* gradient : found) {
      if (gradient) graph->outputs.push_back(gradient);
    }
    graph->prune();
    verify(*graph);
    auto results = evaluate(*graph, feeds);
    std::map<std::string, Tensor> gradients;
    size_t next = 0;
    for (size_t i = 0; i < inputs.size(); ++i) {
      Tensor gradient = found[i] ? results[next++] : Tensor(floats, inputs[i]->dims);
      EXPECT_EQ(gradient.dtype(), floats) << wanted()[i];
      EXPECT_EQ(gradient.dims(), inputs[i]->dims) << "gradient of " << wanted()[i];
      gradients[wanted()[i]] = gradient;
    }
    return gradients;
  }

  double loss(const Feeds& feeds) const {
    auto outputs = evaluate(*graph64_, feeds);
    double sum = 0;
    for (const auto& [output, seed] : seeds_) sum += dot(outputs[output].cast(DType::f64), seed.cast(DType::f64));
    return sum;
  }

  double central_difference(const std::string& name, int64_t element) const {
    Feeds feeds = feeds64_;
    feeds[name] = feeds[name].clone();
    double& x = feeds[name].data<double>()[element];
    double at = x;
    double step = 1e-5 * std::max(1.0, std::fabs(at));
    x = at + step;
    double above = loss(feeds);
    x = at - step;
    return (above - loss(feeds)) / (2 * step);
  }

  // All elements of small inputs, a random choice of large ones.
  static std::vector<int64_t> sample(int64_t count) {
    constexpr int64_t most = 200;
    std::vector<int64_t> elements;
    std::mt19937_64 random(7);
    for (int64_t i = 0; i < std::min(count, most); ++i) {
      elements.push_back(count <= most ? i : static_cast<int64_t>(random() % static_cast<uint64_t>(count)));
    }
    return elements;
  }

  static void compare(const std::vector<double>& got, const std::vector<double>& expected, double tolerance,
                      double global, const std::string& what) {
    std::vector<double> difference;
    for (size_t i = 0; i < expected.size(); ++i) difference.push_back(got[i] - expected[i]);
    double allowed = tolerance * std::max(norm(expected), 1e-3 * global);
    if (norm(difference) <= allowed) return;
    size_t worst = 0;
    for (size_t i = 0; i < difference.size(); ++i) {
      if (!(std::fabs(difference[i]) <= std::fabs(difference[worst]))) worst = i;
    }
    ADD_FAILURE() << what << ": off by " << norm(difference) << ", allowed " << allowed << "; worst element " << worst
                  << " got " << got[worst] << ", expected " << expected[worst];
  }

  std::string text_;
  OpCheck check_;
  std::unique_ptr<Graph> graph32_, graph64_;
  Feeds feeds32_, feeds64_;
  std::map<size_t, Tensor> seeds_;
};

}  // namespace

void check_op(const std::string& text, const Feeds& feeds, const OpCheck& check) {
  SCOPED_TRACE(text);
  Check run(text, feeds, check);
  if (check.forward) run.forward();
  if (check.gradient) run.gradient();
}

}  // namespace graft::test
