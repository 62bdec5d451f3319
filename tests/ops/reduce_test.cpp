#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "tests/support/check_op.h"

namespace graft::test {
namespace {

class Reduce : public testing::TestWithParam<const char*> {
 protected:
  // axes: "" for none
  static void check(const std::string& dims, const std::string& axes, int keepdims,
                    std::pair<double, double> range = {0.2, 2}) {
    std::string constant =
        axes.empty() ? "" : cat(" <int64[", 1 + std::count(axes.begin(), axes.end(), ','), "] axes = {", axes, "}>");
    check_op(cat("(float[", dims, "] x) => (y)", constant, " { y = ", GetParam(), "<keepdims = ", keepdims, ">(x",
                 axes.empty() ? "" : ", axes", ") }"),
             {}, {.ranges = {{"x", range}}});
  }
};

TEST_P(Reduce, Axes) {
  for (int keepdims : {0, 1}) {
    check("3,37", "1", keepdims);
    check("37,5", "0", keepdims);
    check("2,3,4,5", "1", keepdims);
    check("2,3,4,5", "0,2,3", keepdims);
    check("2,3,4,5", "-1,1", keepdims);
    check("2,3,4,5", "", keepdims);
    check("1,3,1", "0,2", keepdims);
    check("5,1", "1", keepdims);
  }
}

TEST_P(Reduce, Layouts) {
  for (const char* tag : {"nChw16c", "nChw8c", "nhwc"}) {
    for (int keepdims : {0, 1}) {
      check_layout(cat("(float[2,19,3,5] x) => (y) <int64[2] axes = {2,3}> { y = ", GetParam(),
                       "<keepdims = ", keepdims, ">(x, axes) }"),
                   tag, 0, {{"x", random_feed(DType::f32, {2, 19, 3, 5}, 0.2, 2, 3)}});
      check_layout(cat("(float[2,19,3,5] x) => (y) <int64[3] axes = {0,2,3}> { y = ", GetParam(),
                       "<keepdims = ", keepdims, ">(x, axes) }"),
                   tag, 0, {{"x", random_feed(DType::f32, {2, 19, 3, 5}, 0.2, 2, 3)}});
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Everywhere, Reduce,
                         testing::Values("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1",
                                         "ReduceL2", "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp"));

TEST(ReduceCases, LargeOnes) {
  for (const char* type : {"ReduceSum", "ReduceMean", "ReduceMax", "ReduceL2"}) {
    for (const char* axes : {"0", "1"}) {
      for (const char* dims : {"70001,3", "301,513", "3,50001", "90000,1"}) {
        check_op(cat("(float[", dims, "] x) => (y) <int64[1] axes = {", axes, "}> { y = ", type, "(x, axes) }"), {},
                 {.gradient = false, .tolerance = 2e-5});
      }
    }
    check_op(cat("(float[100003] x) => (y) { y = ", type, "<keepdims = 0>(x) }"), {},
             {.gradient = false, .tolerance = 3e-5});
  }
}

TEST(ReduceCases, ChannelsOfPaddedSums) {
  check_layout("(float[2,19,3,5] x) => (y) <int64[1] axes = {1}> { y = ReduceSum(x, axes) }", "nChw16c");
}

TEST(ReduceCases, EmptyAxesMayMeanNothing) {
  check_op("(float[3,4] x) => (y) <int64[0] axes = {}> { y = ReduceSum<noop_with_empty_axes = 1>(x, axes) }");
  check_op("(float[3,4] x) => (y) <int64[0] axes = {}> { y = ReduceMean(x, axes) }");
}

TEST(ReduceCases, EmptyTensors) {
  check_op("(float[0,4] x) => (y) <int64[1] axes = {0}> { y = ReduceSum(x, axes) }");
  check_op("(float[0,4] x) => (y) <int64[1] axes = {1}> { y = ReduceMax(x, axes) }");
  check_op("(float[3,0] x) => (y) <int64[1] axes = {1}> { y = ReduceProd(x, axes) }");
}

TEST(ReduceCases, ZerosInProductsAndNorms) {
  auto x = Tensor::of<float>({3, 3}, {1, 0, 3, 0, 0, 2, 1, 2, 3});
  check_op("(float[3,3] x) => (y) <int64[1] axes = {1}> { y = ReduceProd(x, axes) }", {{"x", x}});
}

TEST(ReduceCases, Integers) {
  for (const char* type : {"ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceSumSquare"}) {
    check_op(cat("(int64[3,5] x) => (y) <int64[1] axes = {1}> { y = ", type, "(x, axes) }"));
    check_op(cat("(int32[3,5] x) => (y) <int64[1] axes = {0}> { y = ", type, "(x, axes) }"), {},
             {.oracle = Oracle::onnxruntime});
  }
  check_op("(bool[3,5] x) => (y) <int64[1] axes = {1}> { y = ReduceMax(x, axes) }", {},
           {.oracle = Oracle::onnxruntime});
}

// Results are rounded once, or not at all.
TEST(ReduceCases, MixedPrecision) {
  for (const char* type : {"ReduceSum", "ReduceMean", "ReduceMax", "ReduceL1", "ReduceL2"}) {
    auto check = [&](const char* dims, const char* axes, const char* tag = "any") {
      const auto count = 1 + std::count(axes, axes + std::strlen(axes), ',');
      check_mixed(cat("(float[", dims, "] x) => (y) <int64[", count, "] axes = {", axes, "}> { y = ", type,
                      "<keepdims = 0>(x, axes) }"),
                  tag);
    };
    check("7", "0");
    check("3,37,5", "1");
    check("5,3,77", "2");
    check("300,37", "0");
    check("300,384", "0");
    check("70000", "0");
    check("2,19,3,5", "0,2,3", "nChw16c");
  }
}

}  // namespace
}  // namespace graft::test
