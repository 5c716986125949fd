// The Python that lets transformers run a student: the .py files of this directory, inside the library.
#ifndef XHYBRID_CORE_MODEL_EXPORT_PYTHON_FILES_H_
#define XHYBRID_CORE_MODEL_EXPORT_PYTHON_FILES_H_

#include <map>
#include <string>

namespace xh {

const std::map<std::string, std::string>& PythonFiles();  // name -> text

}  // namespace xh

#endif  // XHYBRID_CORE_MODEL_EXPORT_PYTHON_FILES_H_
