# xh_add_plugin(name SOURCES ... [LIBRARIES ...]): a plugin for libxhybrid. It exports xh_plugin_v1 alone, links the
# headers only (host services arrive as a table) and lies in the directory that the library searches.
function(xh_add_plugin name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LIBRARIES" ${ARGN})
  add_library(${name} MODULE ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE xhybrid::headers ${ARG_LIBRARIES})
  set_target_properties(${name} PROPERTIES PREFIX "" CXX_VISIBILITY_PRESET hidden C_VISIBILITY_PRESET hidden
                                           VISIBILITY_INLINES_HIDDEN ON)
  if(XHYBRID_PLUGIN_OUTPUT_DIRECTORY)
    set_target_properties(${name} PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${XHYBRID_PLUGIN_OUTPUT_DIRECTORY})
  endif()
  if(NOT XHYBRID_SANITIZE)
    target_link_options(${name} PRIVATE -Wl,--no-undefined)
  endif()
  # Hidden visibility does not reach the standard library's templates; the version script does.
  set(map ${CMAKE_CURRENT_FUNCTION_LIST_DIR}/xhybrid_plugin.map)
  target_link_options(${name} PRIVATE -Wl,--exclude-libs,ALL -Wl,--version-script=${map})
  set_property(TARGET ${name} APPEND PROPERTY LINK_DEPENDS ${map})
  if(XHYBRID_PLUGIN_INSTALL_DIR)
    install(TARGETS ${name} LIBRARY DESTINATION ${XHYBRID_PLUGIN_INSTALL_DIR})
  endif()
endfunction()
