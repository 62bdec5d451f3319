#include <gtest/gtest.h>

#include "tests/support/check_op.h"
#include "tests/support/run_op.h"

namespace graft::test {
namespace {

TEST(DepthToSpace, BothModes) {
  for (const char* mode : {"DCR", "CRD"}) {
    check_op(cat("(float[2,12,3,5] x) => (y) { y = DepthToSpace<blocksize = 2, mode = \"", mode, "\">(x) }"));
    check_op(cat("(float[1,9,2,1] x) => (y) { y = DepthToSpace<blocksize = 3, mode = \"", mode, "\">(x) }"));
    check_op(cat("(float[2,8,0,5] x) => (y) { y = DepthToSpace<blocksize = 2, mode = \"", mode, "\">(x) }"));
    check_op(cat("(uint8[2,12,3,5] x) => (y) { y = DepthToSpace<blocksize = 2, mode = \"", mode, "\">(x) }"));
  }
  check_op("(float[2,5,3,4] x) => (y) { y = DepthToSpace<blocksize = 1>(x) }");
}

TEST(SpaceToDepth, Blocks) {
  check_op("(float[2,3,4,6] x) => (y) { y = SpaceToDepth<blocksize = 2>(x) }");
  check_op("(float[2,1,3,9] x) => (y) { y = SpaceToDepth<blocksize = 3>(x) }");
  for (const char* mode : {"DCR", "CRD"})
    check_op(cat("(float[2,3,4,6] x) => (y) { y = SpaceToDepth<blocksize = 2, mode = \"", mode, "\">(x) }"));
  check_op("(int64[2,3,4,6] x) => (y) { y = SpaceToDepth<blocksize = 2>(x) }");
}

TEST(DepthToSpace, MalformedOnesAreRefused) {
  Tensor x(DType::f32, {1, 6, 4, 5});
  auto run = [&](const char* type, int64_t block) { run_op("", type, {x}, 1, {{"blocksize", block}}); };
  EXPECT_NO_THROW(run("DepthToSpace", 1));
  EXPECT_THROW(run("DepthToSpace", 2), ModelError);
  EXPECT_THROW(run("DepthToSpace", 0), ModelError);
  EXPECT_THROW(run("DepthToSpace", -2), ModelError);
  EXPECT_THROW(run("DepthToSpace", INT64_MAX), ModelError);
  EXPECT_THROW(run("SpaceToDepth", 2), ModelError);
  EXPECT_THROW(run_op("", "DepthToSpace", {x}, 1, {{"blocksize", int64_t{1}}, {"mode", std::string("RCD")}}),
               ModelError);
  EXPECT_THROW(run_op("", "DepthToSpace", {Tensor(DType::f32, {4, 4})}, 1, {{"blocksize", int64_t{2}}}), ModelError);
}

}  // namespace
}  // namespace graft::test
