# CUDA kernels without a GPU: the same .cu files as C++, under a header that stands in for CUDA's. With CUDA, the same
# tests run on the GPU.
file(GLOB kernel_tests CONFIGURE_DEPENDS cuda_on_cpu/*_test.cpp)
if(GRAFT_CUDA)
  list(FILTER kernel_tests EXCLUDE REGEX emulation_test)
  add_executable(cuda_tests ${kernel_tests} cuda_on_cpu/run_kernel.cpp)
  target_compile_definitions(cuda_tests PRIVATE GRAFT_CUDA)
  target_link_libraries(cuda_tests PRIVATE graft_test_support graft_warnings CUDA::cudart_static GTest::gtest_main)
  graft_add_shards(cuda)
  return()
endif()

file(GLOB kernels CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/ops/*.cu)
file(GLOB cuda_runtime CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/runtime/device/cuda/*.cpp)
set_source_files_properties(${kernels} PROPERTIES LANGUAGE CXX)
add_executable(cuda_on_cpu_tests ${kernel_tests} ${kernels} ${cuda_runtime} cuda_on_cpu/emulation.cpp
  cuda_on_cpu/run_kernel.cpp)
target_include_directories(cuda_on_cpu_tests BEFORE PRIVATE cuda_on_cpu)
target_link_libraries(cuda_on_cpu_tests PRIVATE graft_test_support graft_warnings GTest::gtest_main)
graft_add_shards(cuda_on_cpu)
