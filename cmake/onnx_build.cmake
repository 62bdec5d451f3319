# Read by the build of the onnx library (scripts/setup) behind its project(): several sources in one, as its headers cost
# more than they do, except for what protoc generates, which defines the same names in each file.
set(CMAKE_UNITY_BUILD ON)
set(CMAKE_UNITY_BUILD_BATCH_SIZE 8)
cmake_language(DEFER CALL set_target_properties onnx_proto PROPERTIES UNITY_BUILD OFF)
