# cmake --install: the command, the library with its headers, and a package for find_package(graft).
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/graft)
install(TARGETS graft EXPORT graft ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(EXPORT graft NAMESPACE graft:: FILE graftTargets.cmake DESTINATION ${package_dir})

# Headers that show other libraries' types are for our own sources.
foreach(folder graph ops runtime importers/onnx)
  file(GLOB_RECURSE headers CONFIGURE_DEPENDS RELATIVE ${CMAKE_SOURCE_DIR} ${folder}/*.h)
  foreach(header ${headers})
    file(STRINGS ${header} foreign REGEX "#include <(onnx|google|oneapi|hwy|cuda)|#include \"(graph/proto|importers/onnx/tensors)")
    if(NOT foreign)
      get_filename_component(header_dir ${header} DIRECTORY)
      install(FILES ${header} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/graft/${header_dir})
    endif()
  endforeach()
endforeach()

configure_package_config_file(cmake/graftConfig.cmake.in ${CMAKE_BINARY_DIR}/graftConfig.cmake
  INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(${CMAKE_BINARY_DIR}/graftConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_BINARY_DIR}/graftConfig.cmake ${CMAKE_BINARY_DIR}/graftConfigVersion.cmake
  cmake/library_dependencies.cmake DESTINATION ${package_dir})

if(TARGET graft_command)
  # oneDNN and Arrow lie where scripts/setup put them; below the sources, where INSTALL_RPATH_USE_LINK_PATH would not look.
  get_filename_component(arrow_dir ${ARROW_LIBRARY} DIRECTORY)
  set_target_properties(graft_command PROPERTIES INSTALL_RPATH "${GRAFT_DEPS}/venv/lib")
  set_target_properties(graft_tables PROPERTIES INSTALL_RPATH "${arrow_dir}")
  install(TARGETS graft_command RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
  install(TARGETS graft_images graft_tables LIBRARY DESTINATION lib/graft)  # as importers/data/module.cpp has it
endif()
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/graft)
