# Everything that scripts/setup installs.
include(${CMAKE_CURRENT_LIST_DIR}/library_dependencies.cmake)
find_package(fmt REQUIRED)
find_package(spdlog REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(CLI11 REQUIRED)
find_package(yaml-cpp REQUIRED)
find_package(ZLIB REQUIRED)

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
