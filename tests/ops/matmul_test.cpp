#include <gtest/gtest.h>
#include <hwy/highway.h>

#include "ops/op.h"
#include "tests/support/check_op.h"
#include "tests/support/run_op.h"
#include "tests/support/text_graph.h"

namespace graft::test {
namespace {

TEST(MatMul, Matrices) {
  check_op("(float[5,7] a, float[7,3] b) => (y) { y = MatMul(a, b) }");
  check_op("(float[1,7] a, float[7,1] b) => (y) { y = MatMul(a, b) }");
}

TEST(MatMul, Vectors) {
  check_op("(float[7] a, float[7,3] b) => (y) { y = MatMul(a, b) }");
  check_op("(float[5,7] a, float[7] b) => (y) { y = MatMul(a, b) }");
  check_op("(float[7] a, float[7] b) => (y) { y = MatMul(a, b) }");
  check_op("(float[2,5,7] a, float[7] b) => (y) { y = MatMul(a, b) }");
  check_op("(float[7] a, float[2,7,5] b) => (y) { y = MatMul(a, b) }");
}

TEST(MatMul, Batches) {
  check_op("(float[2,3,5,4] a, float[2,3,4,6] b) => (y) { y = MatMul(a, b) }");
  check_op("(float[2,3,5,4] a, float[4,6] b) => (y) { y = MatMul(a, b) }");
  check_op("(float[5,4] a, float[3,4,6] b) => (y) { y = MatMul(a, b) }");
  check_op("(float[2,1,5,4] a, float[3,4,6] b) => (y) { y = MatMul(a, b) }");
  check_op("(float[2,1,5,4] a, float[1,3,4,6] b) => (y) { y = MatMul(a, b) }");
  check_op("(float[2,5,4] a, float[1,4,6] b) => (y) { y = MatMul(a, b) }");
}

// More than one block of every axis, and a rest behind each.
TEST(MatMul, Blocks) {
  OpCheck check{.gradient = false, .tolerance = 1e-4};
  check_op("(float[61,790] a, float[790,1043] b) => (y) { y = MatMul(a, b) }", {}, check);
  check_op("(float[3,790] a, float[790,37] b) => (y) { y = MatMul(a, b) }", {}, check);
  check_op("(float[1,61,70] a, float[5,70,19] b) => (y) { y = MatMul(a, b) }", {}, check);
  for (const char* m : {"1", "2", "3", "7", "20", "130"}) {
    check_op(cat("(float[", m, ",413] a, float[90,413] b, float[90] c) => (y) { y = Gemm<transB = 1>(a, b, c) }"), {},
             check);
    check_op(
        cat("(float[413,", m, "] a, float[413,90] b, float[", m, ",1] c) => (y) { y = Gemm<transA = 1>(a, b, c) }"), {},
        check);
    check_op(cat("(float[413,", m, "] a, float[90,413] b) => (y) { y = Gemm<transA = 1, transB = 1>(a, b) }"), {},
             check);
  }
}

// Narrow vectors: what machines without AVX2 run.
TEST(MatMul, OnTheBaseline) {
  hwy::SetSupportedTargetsForTest(HWY_STATIC_TARGET);
  OpCheck check{.gradient = false, .tolerance = 1e-4};
  check_op("(float[49,31] a, float[31,40] b) => (y) { y = MatMul(a, b) }", {}, check);
  check_op("(float[31,49] a, float[40,31] b) => (y) { y = Gemm<transA = 1, transB = 1>(a, b) }", {}, check);
  check_op("(float[2,31] a, float[40,31] b) => (y) { y = Gemm<transB = 1>(a, b) }", {}, check);
  hwy::SetSupportedTargetsForTest(0);
}

// Operands and results as Transpose leaves them and wants them: heads of attention.
TEST(MatMul, ReadsAndWritesByStrides) {
  check_op(
      "(float[2,5,3,4] q, float[2,6,3,4] k, float[2,6,3,4] v) => (y) { qt = Transpose<perm = [0, 2, 1, 3]>(q) kt = "
      "Transpose<perm = [0, 2, 3, 1]>(k) vt = Transpose<perm = [0, 2, 1, 3]>(v) s = MatMul(qt, kt) yt = MatMul(s, vt) "
      "y "
      "= Transpose<perm = [0, 2, 1, 3]>(yt) }");
  check_op("(float[2,3,5,4] a, float[2,3,4,6] b) => (y) { c = MatMul(a, b) y = Transpose<perm = [0, 3, 1, 2]>(c) }");
  check_op("(float[3,5,4] a, float[4,6] b) => (y) { at = Transpose<perm = [1, 0, 2]>(a) y = MatMul(at, b) }");
  check_op("(float[3,5,4] a, float[4,6] b) => (y) { c = MatMul(a, b) y = Transpose<perm = [1, 2, 0]>(c) }");
}

TEST(MatMul, AddsAVector) {
  for (const char* operands :
       {"float[5,7] a, float[7,4] b", "float[2,3,7] a, float[7,4] b", "float[2,3,7] a, float[2,7,4] b",
        "float[1,7] a, float[7,4] b", "float[2,3,0] a, float[0,4] b"})
    check_op(cat("(", operands, ", float[4] c) => (y) { y = graft.MatMul(a, b, c) }"), {}, {.forward = false});
  auto sum = run_op("graft", "MatMul",
                    {Tensor::of<float>({2, 1}, {1, 2}), Tensor::of<float>({1, 3}, {1, 10, 100}),
                     Tensor::of<float>({3}, {0.5F, 0.25F, 0.125F})},
                    1)[0];
  expect_close(sum, Tensor::of<float>({2, 3}, {1.5F, 10.25F, 100.125F, 2.5F, 20.25F, 200.125F}), 0);
  EXPECT_THROW(run_op("graft", "MatMul",
                      {Tensor(DType::f32, {2, 1}), Tensor(DType::f32, {1, 3}), Tensor(DType::f32, {1, 3})}, 1),
               ModelError);
}

TEST(MatMul, Empty) {
  check_op("(float[0,4] a, float[4,6] b) => (y) { y = MatMul(a, b) }", {}, {.gradient = false});
  check_op("(float[3,0] a, float[0,6] b) => (y) { y = MatMul(a, b) }", {}, {.gradient = false});
}

TEST(MatMul, TransposedOperands) {
  OpCheck check{.forward = false};
  check_op("(float[7,5] a, float[7,3] b) => (y) { y = graft.MatMul<transA = 1>(a, b) }", {}, check);
  check_op("(float[5,7] a, float[3,7] b) => (y) { y = graft.MatMul<transB = 1>(a, b) }", {}, check);
  check_op("(float[2,7,5] a, float[2,3,7] b) => (y) { y = graft.MatMul<transA = 1, transB = 1>(a, b) }", {}, check);
  check_op("(float[2,7,5] a, float[3,7] b) => (y) { y = graft.MatMul<transA = 1, transB = 1>(a, b) }", {}, check);
}

TEST(Gemm, Transposed) {
  for (int ta : {0, 1}) {
    for (int tb : {0, 1}) {
      check_op(cat("(float[", ta ? "7,5" : "5,7", "] a, float[", tb ? "3,7" : "7,3",
                   "] b, float[3] c) => (y) { y = Gemm<transA = ", ta, ", transB = ", tb, ">(a, b, c) }"));
    }
  }
}

TEST(Gemm, ScaledAndBroadcast) {
  for (const char* c : {"", "1", "3", "1,3", "5,1", "5,3"}) {
    check_op(cat("(float[5,7] a, float[7,3] b, float", *c ? cat('[', c, ']') : "",
                 " c) => (y) { y = Gemm<alpha = 0.5, beta = 1.5>(a, b, c) }"));
    check_op(cat("(float[5,7] a, float[7,3] b, float", *c ? cat('[', c, ']') : "", " c) => (y) { y = Gemm(a, b, c) }"));
  }
  check_op("(float[5,7] a, float[7,3] b) => (y) { y = Gemm<alpha = 2.0>(a, b) }");
}

// oneDNN divides by zero where its 32 bits hold nothing of a size.
TEST(MatMul, MoreRowsThanOneDnnCountsStayInFloat32) {
  auto mixed = [](int64_t rows) {
    auto graph = graph_from_text(cat("(float[", rows, ",16] a, float[16,32] b) => (y) { y = MatMul(a, b) }"));
    const Node& node = *graph->nodes().front();
    return find_op(node)->mixed_precision(node).has_value();
  };
  EXPECT_EQ(mixed(1 << 20), has_bfloat16());
  EXPECT_FALSE(mixed(int64_t{1} << 32));
}

TEST(MatMul, MixedPrecision) {
  if (!has_bfloat16()) GTEST_SKIP() << "this CPU has no instructions for bfloat16";
  constexpr double tolerance = 4e-2;
  auto check = [&](const std::string& text) { check_mixed(text, "any", 0, {}, tolerance); };
  check("(float[33,70] a, float[70,19] b) => (y) { y = MatMul(a, b) }");
  check("(float[2,3,33,70] a, float[70,19] b) => (y) { y = MatMul(a, b) }");
  check("(float[2,3,33,70] a, float[2,1,70,19] b) => (y) { y = MatMul(a, b) }");
  check("(float[1,1,1] a, float[1,1] b) => (y) { y = MatMul(a, b) }");
  check("(float[2,33,70] a, float[70,19] b, float[19] c) => (y) { y = graft.MatMul(a, b, c) }");
  for (const char* flags : {"transA = 1", "transB = 1", "transA = 1, transB = 1"}) {
    bool ta = std::string_view(flags).find("transA") != std::string_view::npos;
    bool tb = std::string_view(flags).find("transB") != std::string_view::npos;
    std::string a = ta ? "70,33" : "33,70", b = tb ? "19,70" : "70,19";
    check(cat("(float[", a, "] a, float[", b, "] b) => (y) { y = graft.MatMul<", flags, ">(a, b) }"));
    check(cat("(float[", a, "] a, float[", b, "] b) => (y) { y = Gemm<", flags, ", alpha = 0.5>(a, b) }"));
    check(cat("(float[", a, "] a, float[", b, "] b, float[19] c) => (y) { y = Gemm<", flags, ">(a, b, c) }"));
  }
}

}  // namespace
}  // namespace graft::test
