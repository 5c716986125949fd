/* Which exception an error of the library becomes. The classes are Python's own; they are handed in when the package is
 * imported. */
#include "native.h"

static PyObject* error_types; /* {code: class} */

static PyObject* TypeOf(xh_code code) {
  PyObject* key = PyLong_FromLong(code);
  PyObject* type = key != NULL && error_types != NULL ? PyDict_GetItemWithError(error_types, key) : NULL;
  Py_XDECREF(key);
  return type != NULL ? type : PyExc_RuntimeError;
}

void NativeRaise(xh_code code, const char* message, const char* origin) {
  PyObject* type = TypeOf(code);
  PyObject* text = NativeString(message);
  PyObject* from = NativeString(origin);
  if (text != NULL && from != NULL) {
    PyObject* arguments = Py_BuildValue("(iOO)", (int)code, text, from);
    if (arguments != NULL) PyErr_SetObject(type, arguments);
    Py_XDECREF(arguments);
  }
  Py_XDECREF(text);
  Py_XDECREF(from);
}

void NativeRaiseError(xh_error* error) {
  NativeRaise(xh_error_code(error), xh_error_message(error), xh_error_origin(error));
  xh_error_free(error);
}

static PyObject* SetErrorTypes(PyObject* self, PyObject* types) {
  (void)self;
  if (!PyDict_Check(types)) return PyErr_Format(PyExc_TypeError, "error types: a dict of classes by code is needed");
  Py_INCREF(types);
  Py_XSETREF(error_types, types);
  Py_RETURN_NONE;
}

static PyMethodDef methods[] = {{"set_error_types", SetErrorTypes, METH_O, "{code: exception class}"},
                                {NULL, NULL, 0, NULL}};

int NativeInitErrors(PyObject* module) { return PyModule_AddFunctions(module, methods); }
