#include "native.h"

/* Paths inside messages may hold any bytes: what is no UTF-8 is replaced. */
PyObject* NativeString(const char* text) {
  if (text == NULL) Py_RETURN_NONE;
  return PyUnicode_DecodeUTF8(text, (Py_ssize_t)strlen(text), "replace");
}

PyObject* NativeIdsList(const int32_t* ids, int64_t count) {
  PyObject* list = PyList_New((Py_ssize_t)count);
  for (Py_ssize_t i = 0; list != NULL && i < (Py_ssize_t)count; ++i) {
    PyObject* id = PyLong_FromLong(ids[i]);
    if (id == NULL) {
      Py_CLEAR(list);
    } else {
      PyList_SET_ITEM(list, i, id);
    }
  }
  return list;
}

PyObject* NativeToken(int32_t id, const char* piece, int64_t size, int32_t finished) {
  PyObject* text = PyUnicode_DecodeUTF8(piece, (Py_ssize_t)size, "replace");
  return text != NULL ? Py_BuildValue("(iNO)", (int)id, text, finished ? Py_True : Py_False) : NULL;
}

PyObject* NativeSlotTokens(const NativeSlots* slots) {
  PyObject* list = PyList_New((Py_ssize_t)slots->count);
  for (Py_ssize_t i = 0; list != NULL && i < (Py_ssize_t)slots->count; ++i) {
    PyObject* token = Py_None;
    if (slots->tokens[i] < 0) {
      Py_INCREF(token);
    } else {
      token = NativeToken(slots->tokens[i], slots->pieces[i], slots->sizes[i], slots->finished[i]);
    }
    if (token == NULL) {
      Py_CLEAR(list);
    } else {
      PyList_SET_ITEM(list, i, token);
    }
  }
  return list;
}

PyObject* NativePluginInfo(const xh_plugin_info* info) {
  return Py_BuildValue("(iiNNNNN)", (int)info->kind, (int)info->score, NativeString(info->name),
                       NativeString(info->version), NativeString(info->license), NativeString(info->path),
                       NativeString(info->options_schema));
}
