/* Messages of the library come from any of its threads, at any time. They wait here, and the next call that returns to
 * Python hands them on: no foreign thread ever enters the interpreter or waits for the GIL. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "native.h"

enum { kMost = 1024 }; /* waiting messages; more than that are counted and dropped */

typedef struct Message {
  xh_log_level level;
  char* origin;
  char* text;
} Message;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static Message waiting[kMost];
static int count;
static int64_t dropped;
static atomic_int pending;
static PyObject* receiver; /* called with a list of (level, origin, text) */

void NativeLog(void* user, xh_log_level level, const char* origin, const char* text) {
  (void)user;
  const Message message = {level, strdup(origin != NULL ? origin : ""), strdup(text != NULL ? text : "")};
  pthread_mutex_lock(&lock);
  const int fits = count < kMost && message.origin != NULL && message.text != NULL;
  if (fits) {
    waiting[count++] = message;
  } else {
    ++dropped;
  }
  pthread_mutex_unlock(&lock);
  if (!fits) {
    free(message.origin);
    free(message.text);
  }
  atomic_store(&pending, 1);
}

static int Append(PyObject* list, xh_log_level level, const char* origin, const char* text) {
  PyObject* item = Py_BuildValue("(iNN)", (int)level, NativeString(origin), NativeString(text));
  const int failed = item == NULL || PyList_Append(list, item) != 0;
  Py_XDECREF(item);
  return failed ? -1 : 0;
}

/* Takes everything out under the lock, so that nothing of Python runs while it is held. */
static int TakeAll(Message** taken, int64_t* lost) {
  *taken = NULL;
  pthread_mutex_lock(&lock);
  atomic_store(&pending, 0);
  int number = count;
  if (number > 0) {
    *taken = (Message*)malloc((size_t)number * sizeof(Message));
    if (*taken == NULL) number = 0;
    if (number > 0) memcpy(*taken, waiting, (size_t)number * sizeof(Message));
    if (number > 0) count = 0;
  }
  *lost = dropped;
  dropped = 0;
  pthread_mutex_unlock(&lock);
  return number;
}

static PyObject* Waiting(void) {
  Message* taken;
  int64_t lost;
  const int number = TakeAll(&taken, &lost);
  PyObject* list = PyList_New(0);
  for (int i = 0; i < number; ++i) {
    if (list != NULL && Append(list, taken[i].level, taken[i].origin, taken[i].text) != 0) Py_CLEAR(list);
    free(taken[i].origin);
    free(taken[i].text);
  }
  free(taken);
  if (list != NULL && lost > 0) {
    char text[64];
    snprintf(text, sizeof(text), "%lld log messages were dropped", (long long)lost);
    if (Append(list, XH_LOG_WARNING, "python", text) != 0) Py_CLEAR(list);
  }
  return list;
}

void NativeDrainLog(void) {
  if (!atomic_load(&pending) || receiver == NULL) return;
  PyObject* list = Waiting();
  PyObject* result = list != NULL ? PyObject_CallFunctionObjArgs(receiver, list, NULL) : NULL;
  if (result == NULL) PyErr_WriteUnraisable(receiver); /* a broken handler must not change what a call gives */
  Py_XDECREF(result);
  Py_XDECREF(list);
}

static PyObject* SetLogReceiver(PyObject* self, PyObject* function) {
  (void)self;
  Py_INCREF(function);
  Py_XSETREF(receiver, function);
  Py_RETURN_NONE;
}

static PyObject* DrainLog(PyObject* self, PyObject* none) {
  (void)self;
  (void)none;
  NativeDrainLog();
  Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"set_log_receiver", SetLogReceiver, METH_O, "A function of a list of (level, origin, text)"},
    {"drain_log", DrainLog, METH_NOARGS, "Hands waiting messages to the receiver"},
    {NULL, NULL, 0, NULL}};

int NativeInitLog(PyObject* module) { return PyModule_AddFunctions(module, methods); }
