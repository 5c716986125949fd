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
  target_link_options(${name} PRIVATE -Wl,--exclude-libs,ALL)
  if(XHYBRID_PLUGIN_INSTALL_DIR)
    install(TARGETS ${name} LIBRARY DESTINATION ${XHYBRID_PLUGIN_INSTALL_DIR})
  endif()
endfunction()
