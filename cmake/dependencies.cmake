# Everything that scripts/setup installs.
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
add_library(hwy INTERFACE)
target_link_libraries(hwy INTERFACE ${HWY_LIBRARY})
find_package(fmt REQUIRED)
find_package(spdlog REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(CLI11 REQUIRED)
find_package(yaml-cpp REQUIRED)

# Three modules of OpenCV: Debian's OpenCVConfig.cmake comes only with all of them and their GUI.
find_path(OPENCV_INCLUDE opencv2/core.hpp PATH_SUFFIXES opencv4 REQUIRED)
add_library(opencv INTERFACE)
target_include_directories(opencv SYSTEM INTERFACE ${OPENCV_INCLUDE})
foreach(module core imgproc imgcodecs)
  find_library(OPENCV_${module} opencv_${module} REQUIRED)
  target_link_libraries(opencv INTERFACE ${OPENCV_${module}})
endforeach()

# Arrow from the pyarrow wheel, or a system one. It ships no CMake files.
file(GLOB pyarrow_dir "${GRAFT_DEPS}/venv/lib/python3*/site-packages/pyarrow")
find_path(ARROW_INCLUDE arrow/api.h HINTS ${pyarrow_dir}/include REQUIRED)
find_library(ARROW_LIBRARY arrow HINTS ${pyarrow_dir} REQUIRED)
find_library(PARQUET_LIBRARY parquet HINTS ${pyarrow_dir} REQUIRED)
add_library(arrow_shared INTERFACE)
target_include_directories(arrow_shared SYSTEM INTERFACE ${ARROW_INCLUDE})
target_link_libraries(arrow_shared INTERFACE ${ARROW_LIBRARY} ${PARQUET_LIBRARY})
