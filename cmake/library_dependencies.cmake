# What the library needs. Also part of the installed package: find_package(graft) reads this file.
list(PREPEND CMAKE_PREFIX_PATH "${GRAFT_DEPS}/onnx" "${GRAFT_DEPS}/venv")

find_package(Protobuf 3.21 REQUIRED)
# ONNX's own config file asks for protobuf's CMake config, which Debian does not ship: its targets are all we need.
find_file(ONNX_TARGETS ONNXTargets.cmake PATHS "${GRAFT_DEPS}/onnx/lib/cmake/ONNX" REQUIRED)
include(${ONNX_TARGETS})
find_package(DNNL CONFIG REQUIRED)   # any v3 from 3.2 on
if(DNNL_VERSION VERSION_LESS 3.2 OR DNNL_VERSION VERSION_GREATER_EQUAL 4)
  message(FATAL_ERROR "oneDNN ${DNNL_VERSION} found, 3.2 or a newer v3 is needed: run scripts/setup")
endif()
find_package(OpenMP REQUIRED COMPONENTS CXX)
find_library(HWY_LIBRARY hwy REQUIRED)
add_library(hwy INTERFACE IMPORTED)
target_link_libraries(hwy INTERFACE ${HWY_LIBRARY})
