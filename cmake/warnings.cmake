add_library(graft_warnings INTERFACE)
set(graft_warning_options -Wall -Wextra $<$<CXX_COMPILER_ID:GNU>:-Wshadow=local> -Wconversion -Wno-sign-conversion
  -Wnon-virtual-dtor -Woverloaded-virtual -Wno-missing-field-initializers -Werror
  # False positives of GCC 12 on std::string and std::vector (bugs 105329, 105651, 107852).
  -Wno-restrict -Wno-array-bounds -Wno-stringop-overflow -Wno-stringop-overread)
target_compile_options(graft_warnings INTERFACE "$<$<COMPILE_LANGUAGE:CXX>:${graft_warning_options}>"
  "$<$<COMPILE_LANGUAGE:CUDA>:SHELL:-Werror all-warnings -Xcompiler -Wall,-Wextra,-Werror,-Wno-missing-field-initializers>")
# Build type of the presets with sanitizers. Lines in stack traces are all that is wanted of debug information, and
# nothing of optimisation: a file compiles in a fifth of the time that -O2 -g takes.
set(CMAKE_CXX_FLAGS_SANITIZED "-O0 -g1 -DNDEBUG -D_GLIBCXX_ASSERTIONS")
if(GRAFT_SANITIZE)
  add_compile_options(-fsanitize=${GRAFT_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  add_link_options(-fsanitize=${GRAFT_SANITIZE})
  # GCC reports false positives of these under sanitizers.
  target_compile_options(graft_warnings INTERFACE -Wno-maybe-uninitialized)
endif()
