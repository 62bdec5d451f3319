// Steps of picked rows against GatherGrad and the step of the whole table: the same bits.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmath>
#include <limits>

#include "ops/op.h"
#include "tests/support/recording.h"
#include "tests/support/run_op.h"
#include "tests/support/thread_count.h"

namespace graft {
namespace {

using test::random_tensor;
using test::run_op;
using test::ThreadCount;

Tensor number(DType dtype, double value) { return Tensor::scalar<double>(value).cast(dtype); }

struct Rule {
  const char* type;
  size_t moments;
  Attributes attributes;
};

std::vector<Rule> rules() {
  const std::string decay = "weight_decay", momentum = "momentum";
  return {{"Adam", 2, {}},
          {"Adam", 2, {{decay, 0.1}}},
          {"Adam", 2, {{decay, 0.1}, {"decoupled", int64_t{1}}}},
          {"Sgd", 0, {}},
          {"Sgd", 0, {{decay, 0.1}}},
          {"Sgd", 1, {{momentum, 0.9}}},
          {"Sgd", 1, {{momentum, 0.9}, {decay, 0.1}, {"dampening", 0.3}}},
          {"Sgd", 1, {{momentum, 0.9}, {"nesterov", int64_t{1}}}}};
}

// A node of steps of picked rows on plain operands, and its kernel in the bytes of its operands.
class InPlace {
 public:
  InPlace(const Rule& rule, const std::vector<std::pair<DType, Dims>>& types) {
    std::vector<Value*> operands;
    for (const auto& [dtype, dims] : types) {
      operands.push_back(graph_.add_input("", dtype, dims));
      operands.back()->layout = Layout::plain(dims);
    }
    node_ = graph_.add_node("graft", cat(rule.type, "Rows"), operands, 1 + rule.moments, rule.attributes);
    infer(*node_);
  }
  void run(const std::vector<void*>& operands) const {
    const KernelFunctions* kernel = find_kernel(*node_);
    Settlement settlement = kernel->settle(*node_, nullptr);
    std::vector<std::byte> scratch(static_cast<size_t>(settlement.scratch_bytes));
    Binding binding{{operands.begin(), operands.end()}, {}, scratch.data(), &settlement};
    ASSERT_EQ(settlement.in_place.size(), node_->outputs.size());
    for (auto [out, in] : settlement.in_place) {
      ASSERT_EQ(static_cast<size_t>(out), binding.outputs.size());
      binding.outputs.push_back(operands[static_cast<size_t>(in)]);
    }
    auto stream = make_stream(Device::cpu);
    kernel->prepare(*node_, binding)(*stream);
  }

 private:
  Graph graph_;
  Node* node_;
};

// One step of both kinds, with these threads.
struct Step {
  Rule rule;
  Tensor w, dy, indices;
  double scale = 0.25, lr = 0.1;
  int64_t step = 3;

  std::vector<Tensor> inputs(bool rows) const {
    DType dtype = w.dtype();
    Attributes picked{{"axis", int64_t{0}}, {"dims", w.dims()}};
    Tensor g = rows ? dy : run_op("graft", "GatherGrad", {dy, indices}, 1, picked)[0];
    std::vector<Tensor> all{w, g, number(dtype, scale), number(dtype, lr), Tensor::scalar<int64_t>(step)};
    for (size_t i = 0; i < rule.moments; ++i)
      all.push_back(random_tensor(dtype, w.dims(), 50 + static_cast<unsigned>(i), i == 0 ? -1 : 0, 1));
    if (rows) all.push_back(indices);
    return all;
  }

  std::vector<Tensor> run(bool rows, int threads) const {
    ThreadCount some(threads);
    return run_op("graft", cat(rule.type, rows ? "Rows" : ""), inputs(rows), 1 + rule.moments, rule.attributes);
  }

  void check(const std::string& what) const {
    std::vector<Tensor> wanted = run(false, 1);
    for (int threads : {1, 2, 5}) {
      SCOPED_TRACE(cat(what, ", ", rule.type, ' ', rule.moments, ", ", threads, " threads"));
      std::vector<Tensor> got = run(true, threads);
      for (size_t i = 0; i < wanted.size(); ++i) test::expect_same_bits({{"", got[i]}}, {{"", wanted[i]}});
    }
  }
};

// Picks (k^2 * factor + 1) mod rows, every other one counted from the end.
Tensor picks(const Dims& dims, int64_t rows, int64_t factor, DType dtype) {
  Tensor indices(DType::i64, dims);
  for (int64_t k = 0; k < indices.count(); ++k)
    indices.data<int64_t>()[k] = (k * k * factor + 1) % rows - (k % 2 ? rows : 0);
  return indices.cast(dtype);
}

void check(const std::string& what, const Dims& table, const Tensor& indices) {
  Dims picked = indices.dims();
  picked.insert(picked.end(), table.begin() + 1, table.end());
  for (DType dtype : {DType::f32, DType::f64}) {
    for (const Rule& rule : rules())
      Step{rule, random_tensor(dtype, table, 1), random_tensor(dtype, picked, 2), indices}.check(what);
  }
}

TEST(RowStep, TheBitsOfTheWholeGradient) {
  check("duplicates", {11, 7}, picks({4, 6}, 11, 1, DType::i64));
  check("int32", {11, 7}, picks({9}, 11, 1, DType::i32));
  check("one row", {11, 3, 2}, picks({}, 11, 1, DType::i64));
  check("no index", {4, 3}, picks({0}, 4, 1, DType::i64));
  check("no column", {4, 0}, picks({3}, 4, 1, DType::i64));
  check("no row", {0, 3}, picks({0}, 1, 1, DType::i64));
  check("a vector", {13}, picks({5}, 13, 1, DType::i64));
}

TEST(RowStep, TheSameForEveryNumberOfThreads) {
  check("rows apart", {700, 129}, picks({8, 65}, 700, 1, DType::i64));
  check("two rows", {2, 390}, picks({500}, 2, 1, DType::i64));
  check("all in one of two rows", {2, 390}, Tensor(DType::i64, {500}));
  check("rows longer than a piece", {9, 2500}, picks({40}, 9, 1, DType::i64));
  check("a long vector", {40000}, picks({30000}, 40000, 1, DType::i64));
}

// Rows that nothing picks stay as they are, whatever they hold, unless a zero gradient moves them.
TEST(RowStep, OddValuesAndScalars) {
  constexpr double inf = std::numeric_limits<double>::infinity();
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const Rule& rule : rules()) {
    Step step{rule, Tensor::of<float>({4, 2}, {-0.0F, 0, 1, -1, -0.0F, HUGE_VALF, -1, -0.0F}),
              Tensor::of<float>({3, 2}, {-0.0F, -0.0F, 0.5F, -0.5F, -0.5F, 0.5F}), Tensor::of<int64_t>({3}, {0, 1, 1})};
    for (double scale : {1.0, 0.0, -1.0, inf, nan}) {
      for (double lr : {0.1, 0.0, -0.1, inf, nan}) {
        step.scale = scale;
        step.lr = lr;
        for (int64_t at : {1, 5}) {
          step.step = at;
          step.check(cat("scale ", scale, ", lr ", lr));
        }
      }
    }
  }
}

TEST(RowStep, PlainDescentKeepsInfinityInOtherRows) {
  Step step{{"Sgd", 0, {}},
            Tensor::of<float>({2, 1}, {1, HUGE_VALF}),
            Tensor::of<float>({1, 1}, {1}),
            Tensor::of<int64_t>({1}, {0})};
  for (bool rows : {false, true}) EXPECT_EQ(step.run(rows, 1)[0].data<float>()[1], HUGE_VALF) << rows;
}

// Threads that meet within a row step none of it twice.
TEST(RowStep, WorksWhereTheParameterLies) {
  for (const Rule& rule : rules()) {
    Step step{rule, random_tensor(DType::f32, {5, 9001}, 1), random_tensor(DType::f32, {4, 9001}, 2),
              Tensor::of<int64_t>({4}, {4, 1, -1, -4})};
    std::vector<Tensor> wanted = step.run(false, 1);
    for (int threads : {1, 3}) {
      SCOPED_TRACE(cat(rule.type, ' ', rule.moments, ", ", threads, " threads"));
      ThreadCount some(threads);
      std::vector<Tensor> inputs = step.inputs(true);
      inputs[0] = inputs[0].clone();
      std::vector<void*> operands;
      std::vector<std::pair<DType, Dims>> types;
      for (Tensor& input : inputs) {
        operands.push_back(input.raw());
        types.emplace_back(input.dtype(), input.dims());
      }
      InPlace(rule, types).run(operands);
      test::expect_same_bits({{"w", inputs[0]}}, {{"w", wanted[0]}});
      for (size_t i = 0; i < rule.moments; ++i)
        test::expect_same_bits({{"moment", inputs[5 + i]}}, {{"moment", wanted[1 + i]}});
    }
  }
}

// A table of one row a page; rows that nothing picks lie in pages that cannot be read.
TEST(RowStep, PlainDescentTouchesNoOtherRow) {
  const int64_t page = sysconf(_SC_PAGESIZE), width = page / static_cast<int64_t>(sizeof(float)), rows = 6;
  auto bytes = static_cast<size_t>(rows * page);
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(memory, MAP_FAILED);
  for (int64_t row : {0, 1, 3, 5})
    ASSERT_EQ(mprotect(static_cast<std::byte*>(memory) + row * page, static_cast<size_t>(page), PROT_NONE), 0);
  Tensor dy = random_tensor(DType::f32, {3, width}, 1), indices = Tensor::of<int64_t>({3}, {4, 2, -2});
  float scale = 1, lr = 1;
  int64_t step = 1;
  const DType f32 = DType::f32, i64 = DType::i64;
  InPlace({"Sgd", 0, {}}, {{f32, {rows, width}}, {f32, dy.dims()}, {f32, {}}, {f32, {}}, {i64, {}}, {i64, {3}}})
      .run({memory, dy.raw(), &scale, &lr, &step, indices.raw()});
  const auto* w = static_cast<const float*>(memory);
  for (int64_t i = 0; i < width; ++i) {
    EXPECT_EQ(w[2 * width + i], -dy.data<float>()[width + i]);
    EXPECT_EQ(w[4 * width + i], -(dy.data<float>()[i] + dy.data<float>()[2 * width + i]));
  }
  munmap(memory, bytes);
}

TEST(RowStep, RefusesBadIndicesAndShapes) {
  Tensor w = random_tensor(DType::f32, {4, 3}, 1), dy(DType::f32, {2, 3}), one = number(DType::f32, 1);
  Tensor step = Tensor::scalar<int64_t>(1);
  auto sgd = [&](const Tensor& rows, const Tensor& indices) {
    return run_op("graft", "SgdRows", {w, rows, one, one, step, indices}, 1);
  };
  auto adam = [&](const Tensor& indices) {
    return run_op("graft", "AdamRows", {w, dy, one, one, step, w, w, indices}, 3);
  };
  for (int64_t bad : {int64_t{4}, int64_t{-5}, INT64_MAX, INT64_MIN}) {
    EXPECT_THROW(sgd(dy, Tensor::of<int64_t>({2}, {0, bad})), DataError) << bad;
    EXPECT_THROW(adam(Tensor::of<int64_t>({2}, {0, bad})), DataError) << bad;
  }
  EXPECT_THROW(sgd(w, Tensor(DType::i64, {2})), ModelError);
  EXPECT_THROW(sgd(dy, Tensor(DType::i64, {3})), ModelError);
  EXPECT_THROW(sgd(dy, Tensor(DType::f32, {2})), ModelError);
  EXPECT_THROW(run_op("graft", "SgdRows", {w, dy, one, one, step}, 1), ModelError);
  EXPECT_THROW(run_op("graft", "AdamRows", {w, dy, one, one, step, w, Tensor(DType::i64, {2})}, 2), ModelError);
  EXPECT_THROW(run_op("graft", "SgdRows", {one, one, one, one, step, Tensor(DType::i64, {})}, 1), ModelError);
}

}  // namespace
}  // namespace graft
