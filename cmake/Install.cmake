# What `cmake --install` lays down. The tree may be moved: the program finds the library and the library its plugins
# relative to themselves, and the CMake and pkg-config files speak of their own directory.
include(CMakePackageConfigHelpers)

install(FILES abi/xhybrid.h abi/xhybrid.hpp abi/xhybrid_plugin.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(FILES abi/checkpoint.fbs DESTINATION ${CMAKE_INSTALL_DATADIR}/xhybrid)
install(FILES LICENSE THIRD_PARTY_NOTICES.md DESTINATION ${CMAKE_INSTALL_DOCDIR})

install(TARGETS xhybrid xhybrid_headers EXPORT xhybridTargets LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(TARGETS xhybrid_cli RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
if(TARGET xhybrid_conformance)  # part of the tests
  install(TARGETS xhybrid_conformance RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()

# find_package(xhybrid): xhybrid::xhybrid for applications, xhybrid::headers and xh_add_plugin for plugin authors.
set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/xhybrid)
install(EXPORT xhybridTargets NAMESPACE xhybrid:: DESTINATION ${package_dir})
configure_package_config_file(cmake/xhybridConfig.cmake.in ${PROJECT_BINARY_DIR}/cmake/xhybridConfig.cmake
                              INSTALL_DESTINATION ${package_dir} PATH_VARS XHYBRID_PLUGIN_INSTALL_DIR)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/cmake/xhybridConfigVersion.cmake
                                 COMPATIBILITY SameMajorVersion)
install(FILES ${PROJECT_BINARY_DIR}/cmake/xhybridConfig.cmake ${PROJECT_BINARY_DIR}/cmake/xhybridConfigVersion.cmake
              cmake/XhybridPlugin.cmake cmake/xhybrid_plugin.map
        DESTINATION ${package_dir})

file(RELATIVE_PATH XHYBRID_PC_TO_PREFIX /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
string(REGEX REPLACE "/$" "" XHYBRID_PC_TO_PREFIX "${XHYBRID_PC_TO_PREFIX}")
configure_file(cmake/xhybrid.pc.in ${PROJECT_BINARY_DIR}/cmake/xhybrid.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/cmake/xhybrid.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
