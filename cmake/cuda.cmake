# The CUDA kernels, as a part of the library. Nothing else in the build knows CUDA.
if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX} AND EXISTS /usr/local/cuda/bin/nvcc)
  set(CMAKE_CUDA_COMPILER /usr/local/cuda/bin/nvcc)
endif()
enable_language(CUDA)
if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)   # CMake 3.25 does not know it
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
endif()
find_package(CUDAToolkit 12 REQUIRED)

file(GLOB graft_cuda_sources CONFIGURE_DEPENDS ops/*.cu runtime/device/cuda/*.cpp)
target_sources(graft PRIVATE ${graft_cuda_sources})
# Only what needs to know sees the definition: other objects are the same as without CUDA, and ccache has them.
foreach(kernel ${graft_cuda_sources})
  string(REPLACE .cu .cpp operator ${kernel})
  set_source_files_properties(${kernel} ${operator} PROPERTIES COMPILE_DEFINITIONS GRAFT_CUDA)
endforeach()
set_source_files_properties(runtime/device/cpu/cpu.cpp PROPERTIES COMPILE_DEFINITIONS GRAFT_CUDA)
target_link_libraries(graft PRIVATE CUDA::cudart_static)
set(GRAFT_CUDA_ARCHITECTURES 80 90 CACHE STRING "CUDA architectures to compile for")
set_target_properties(graft PROPERTIES CUDA_ARCHITECTURES "${GRAFT_CUDA_ARCHITECTURES}")
