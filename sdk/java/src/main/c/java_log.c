/* Log lines from any native thread to a listener in Java. A thread that Java does not know is attached for one line. */
#include "java_support.h"

struct java_log {
  JavaVM* vm;
  jobject listener; /* global reference */
  jmethodID receive;
};

java_log* java_log_new(JNIEnv* env, jobject listener) {
  java_log* log = calloc(1, sizeof(*log));
  if (log == NULL) return NULL;
  log->receive = (*env)->GetMethodID(env, (*env)->GetObjectClass(env, listener), "receive", "(I[B[B)V");
  log->listener = (*env)->NewGlobalRef(env, listener);
  if (log->receive == NULL || log->listener == NULL || (*env)->GetJavaVM(env, &log->vm) != JNI_OK) {
    java_log_free(env, log);
    return NULL;
  }
  return log;
}

void java_log_free(JNIEnv* env, java_log* log) {
  if (log == NULL) return;
  (*env)->DeleteGlobalRef(env, log->listener);
  free(log);
}

/* Leaves no local reference: a thread that Java knows may be deep in one long native call. An exception that was
 * pending stays so, and one of the listener is gone: a line of a log stops nothing. */
static void Deliver(JNIEnv* env, const java_log* log, xh_log_level level, const char* origin, const char* text) {
  jthrowable pending = (*env)->ExceptionOccurred(env);
  (*env)->ExceptionClear(env);
  if ((*env)->PushLocalFrame(env, 8) == 0) {
    jbyteArray origin_bytes = java_bytes(env, origin, (int64_t)strlen(origin));
    jbyteArray text_bytes = java_bytes(env, text, (int64_t)strlen(text));
    if (origin_bytes != NULL && text_bytes != NULL) {
      (*env)->CallVoidMethod(env, log->listener, log->receive, (jint)level, origin_bytes, text_bytes);
    }
    (*env)->ExceptionClear(env);
    (*env)->PopLocalFrame(env, NULL);
  }
  (*env)->ExceptionClear(env);
  if (pending != NULL) {
    (*env)->Throw(env, pending);
    (*env)->DeleteLocalRef(env, pending);
  }
}

static void Log(void* user, xh_log_level level, const char* origin, const char* text) {
  const java_log* log = user;
  JNIEnv* env = NULL;
  JavaVMAttachArgs arguments = {JNI_VERSION_1_6, "xhybrid", NULL};
  if ((*log->vm)->GetEnv(log->vm, (void**)&env, JNI_VERSION_1_6) == JNI_OK) {
    Deliver(env, log, level, origin, text);
    return;
  }
  /* As a daemon, so that a native thread never keeps the virtual machine from ending. */
  if ((*log->vm)->AttachCurrentThreadAsDaemon(log->vm, (void**)&env, &arguments) != JNI_OK) return;
  Deliver(env, log, level, origin, text);
  (*log->vm)->DetachCurrentThread(log->vm);
}

xh_error* java_runtime_open(const char* plugin_path, const xh_option* options, int64_t option_count, java_log* log,
                            xh_runtime** out) {
  xh_runtime_config config;
  memset(&config, 0, sizeof(config));
  config.struct_size = XH_SIZED(xh_runtime_config);
  config.plugin_path = plugin_path;
  config.options = options;
  config.option_count = option_count;
  config.log = log != NULL ? Log : NULL;
  config.log_user = log;
  return xh_runtime_open(&config, out);
}
