/* Options from a dict. Strings are lent by the dict, which lives as long as the call. */
#include "native.h"

static int OptionFrom(const char* key, PyObject* value, xh_option* option) {
  memset(option, 0, sizeof(*option));
  option->key = key;
  if (PyUnicode_Check(value)) {
    option->kind = XH_OPTION_TEXT;
    return NativeText(value, key, (char**)&option->text, NULL);
  }
  if (PyFloat_Check(value)) {
    option->kind = XH_OPTION_REAL;
    option->real = PyFloat_AS_DOUBLE(value);
    return 0;
  }
  if (!PyIndex_Check(value)) {
    PyErr_Format(PyExc_TypeError, "%s is %.100s; allowed: str, bool, int, float", key, Py_TYPE(value)->tp_name);
    return -1;
  }
  option->kind = PyBool_Check(value) ? XH_OPTION_BOOL : XH_OPTION_INT;
  PyObject* number = PyNumber_Index(value);
  if (number == NULL) return -1;
  option->integer = PyLong_AsLongLong(number);
  Py_DECREF(number);
  if (option->integer == -1 && PyErr_Occurred()) {
    PyErr_Format(PyExc_ValueError, "%s does not fit into 64 bits", key);
    return -1;
  }
  return 0;
}

static Py_ssize_t CountOf(PyObject* dict) {
  PyObject *key, *value;
  Py_ssize_t at = 0, count = 0;
  while (PyDict_Next(dict, &at, &key, &value)) count += PyTuple_Check(value) ? PyTuple_GET_SIZE(value) : 1;
  return count;
}

static int AddOption(PyObject* key, PyObject* value, NativeOptions* options) {
  char* name;
  if (NativeText(key, "option", &name, NULL) != 0) return -1;
  if (!PyTuple_Check(value)) return OptionFrom(name, value, &options->items[options->count++]);
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(value); ++i) {
    if (OptionFrom(name, PyTuple_GET_ITEM(value, i), &options->items[options->count++]) != 0) return -1;
  }
  return 0;
}

int NativeOptionsFrom(PyObject* dict, NativeOptions* options) {
  PyObject *key, *value;
  Py_ssize_t at = 0;
  if (!PyDict_Check(dict)) {
    PyErr_Format(PyExc_TypeError, "options are %.100s; allowed: dict", Py_TYPE(dict)->tp_name);
    return -1;
  }
  options->items = (xh_option*)PyMem_Calloc((size_t)CountOf(dict) + 1, sizeof(xh_option));
  if (options->items == NULL) return PyErr_NoMemory(), -1;
  while (PyDict_Next(dict, &at, &key, &value)) {
    if (AddOption(key, value, options) != 0) return -1;
  }
  return 0;
}

void NativeOptionsRelease(NativeOptions* options) {
  PyMem_Free(options->items);
  options->items = NULL;
}

int NativeConfigFrom(PyObject* value, xh_runtime_config* config, NativeOptions* options) {
  PyObject *path, *dict;
  char* text;
  if (!PyTuple_Check(value) || !PyArg_ParseTuple(value, "OO", &path, &dict)) {
    PyErr_Format(PyExc_TypeError, "config: (plugin path, options) are needed");
    return -1;
  }
  if (NativeText(path, "plugin_path", &text, NULL) != 0 || NativeOptionsFrom(dict, options) != 0) return -1;
  memset(config, 0, sizeof(*config));
  config->struct_size = XH_SIZED(xh_runtime_config);
  config->plugin_path = text;
  config->options = options->items;
  config->option_count = options->count;
  config->log = NativeLog; /* needs no state of its own, so that it may outlive everything */
  return 0;
}
