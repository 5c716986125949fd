#include "java_support.h"

#include <limits.h>
#include <stdio.h>

static void Throw(JNIEnv* env, const char* class_name, const char* message) {
  jclass type;
  if ((*env)->ExceptionCheck(env)) return;
  type = (*env)->FindClass(env, class_name);
  if (type != NULL) (*env)->ThrowNew(env, type, message);
}

static void* Allocate(JNIEnv* env, size_t count, size_t element) {
  void* memory = calloc(count > 0 ? count : 1, element);
  if (memory == NULL) Throw(env, "java/lang/OutOfMemoryError", "no native memory for a copy of an array");
  return memory;
}

void java_throw(JNIEnv* env, xh_error* error) {
  jclass type;
  jmethodID make;
  jobject exception;
  if (error == NULL) return;
  type = (*env)->FindClass(env, "org/xhybrid/XhybridException");
  make = type == NULL ? NULL : (*env)->GetStaticMethodID(env, type, "of", "(I[B[B)Lorg/xhybrid/XhybridException;");
  if (make != NULL) {
    const char *message = xh_error_message(error), *origin = xh_error_origin(error);
    jbyteArray message_bytes = java_bytes(env, message, (int64_t)strlen(message));
    jbyteArray origin_bytes = message_bytes == NULL ? NULL : java_bytes(env, origin, (int64_t)strlen(origin));
    exception = origin_bytes == NULL ? NULL
                                     : (*env)->CallStaticObjectMethod(env, type, make, (jint)xh_error_code(error),
                                                                      message_bytes, origin_bytes);
    if (exception != NULL && !(*env)->ExceptionCheck(env)) (*env)->Throw(env, (jthrowable)exception);
  }
  xh_error_free(error);
}

/* ---- from Java ---- */

char* java_text(JNIEnv* env, jbyteArray bytes) {
  jsize size;
  char* text;
  if (bytes == NULL || (*env)->ExceptionCheck(env)) return NULL;
  size = (*env)->GetArrayLength(env, bytes);
  text = Allocate(env, (size_t)size + 1, 1);
  if (text != NULL) (*env)->GetByteArrayRegion(env, bytes, 0, size, (jbyte*)text);
  return text;
}

int32_t* java_ints(JNIEnv* env, jintArray array, int64_t* count) {
  int32_t* values = java_room(env, array, sizeof(int32_t), count);
  if (values != NULL) (*env)->GetIntArrayRegion(env, array, 0, (jsize)*count, (jint*)values);
  return values;
}

void* java_room(JNIEnv* env, jarray array, size_t element, int64_t* count) {
  *count = 0;
  if (array == NULL || (*env)->ExceptionCheck(env)) return NULL;
  *count = (*env)->GetArrayLength(env, array);
  return Allocate(env, (size_t)*count, element);
}

java_floats java_floats_room(JNIEnv* env, jobject array_or_buffer) {
  java_floats floats = {NULL, 0, NULL};
  if (array_or_buffer == NULL || (*env)->ExceptionCheck(env)) return floats;
  floats.data = (*env)->GetDirectBufferAddress(env, array_or_buffer);
  if (floats.data != NULL) {
    floats.count = (*env)->GetDirectBufferCapacity(env, array_or_buffer);
    return floats;
  }
  floats.array = (jfloatArray)array_or_buffer;
  floats.data = java_room(env, floats.array, sizeof(float), &floats.count);
  return floats;
}

void java_floats_written(JNIEnv* env, const java_floats* floats) {
  if (floats->array == NULL || (*env)->ExceptionCheck(env)) return;
  (*env)->SetFloatArrayRegion(env, floats->array, 0, (jsize)floats->count, floats->data);
}

void java_floats_free(java_floats* floats) {
  if (floats->array != NULL) free(floats->data);
}

/* ---- to Java ---- */

jbyteArray java_bytes(JNIEnv* env, const void* data, int64_t size) {
  jbyteArray bytes;
  if (size < 0 || (*env)->ExceptionCheck(env)) return NULL;
  if (size > INT_MAX - 8) { /* what HotSpot allows an array */
    Throw(env, "java/lang/OutOfMemoryError", "the result is larger than a byte[] can be");
    return NULL;
  }
  bytes = (*env)->NewByteArray(env, (jsize)size);
  if (bytes != NULL) (*env)->SetByteArrayRegion(env, bytes, 0, (jsize)size, data);
  return bytes;
}

void java_set_int(JNIEnv* env, jintArray array, int32_t value) { java_set_ints(env, array, &value, 1); }

void java_set_ints(JNIEnv* env, jintArray array, const int32_t* values, int64_t count) {
  if (array == NULL || (*env)->ExceptionCheck(env)) return;
  (*env)->SetIntArrayRegion(env, array, 0, (jsize)count, (const jint*)values);
}

void java_set_long(JNIEnv* env, jlongArray array, int64_t value) {
  const jlong number = value;
  if ((*env)->ExceptionCheck(env)) return;
  (*env)->SetLongArrayRegion(env, array, 0, 1, &number);
}

void java_set_bytes(JNIEnv* env, jobjectArray array, jsize place, const void* data, int64_t size) {
  jbyteArray bytes = java_bytes(env, data, size);
  if (bytes == NULL || (*env)->ExceptionCheck(env)) return;
  (*env)->SetObjectArrayElement(env, array, place, bytes);
  (*env)->DeleteLocalRef(env, bytes); /* a batch writes more than a native method has local references */
}

void java_set_floats(JNIEnv* env, jobjectArray array, const float* values, int64_t count) {
  jfloatArray floats;
  if ((*env)->ExceptionCheck(env)) return;
  floats = (*env)->NewFloatArray(env, (jsize)count);
  if (floats == NULL) return;
  (*env)->SetFloatArrayRegion(env, floats, 0, (jsize)count, values);
  (*env)->SetObjectArrayElement(env, array, 0, floats);
}

void java_set_tensor(JNIEnv* env, jlongArray array, const xh_tensor* tensor) {
  jlong fields[3 + XH_MAX_RANK];
  int32_t i;
  if ((*env)->ExceptionCheck(env)) return;
  fields[0] = (jlong)(intptr_t)tensor->data;
  fields[1] = tensor->rank;
  fields[2] = tensor->dtype;
  for (i = 0; i < XH_MAX_RANK; ++i) fields[3 + i] = tensor->shape[i];
  (*env)->SetLongArrayRegion(env, array, 0, 3 + XH_MAX_RANK, fields);
}

void java_set_plugin(JNIEnv* env, jobjectArray array, const xh_plugin_info* info) {
  char kind[16], score[16];
  const char* texts[7];
  int i;
  snprintf(kind, sizeof(kind), "%d", (int)info->kind);
  snprintf(score, sizeof(score), "%d", (int)info->score);
  texts[0] = kind;
  texts[1] = score;
  texts[2] = info->name;
  texts[3] = info->version;
  texts[4] = info->license;
  texts[5] = info->path;
  texts[6] = info->options_schema;
  for (i = 0; i < 7; ++i) {
    const char* text = texts[i] != NULL ? texts[i] : "";
    java_set_bytes(env, array, i, text, (int64_t)strlen(text));
  }
}

jobject java_view(JNIEnv* env, int64_t address, int64_t size) {
  return (*env)->NewDirectByteBuffer(env, (void*)(intptr_t)address, size);
}

/* ---- options ---- */

/* Copies of the texts of one option. False: an exception is pending. */
static int ReadTexts(JNIEnv* env, jobjectArray keys, jobjectArray texts, jsize place, xh_option* option) {
  jbyteArray key = (jbyteArray)(*env)->GetObjectArrayElement(env, keys, place);
  jbyteArray text = (jbyteArray)(*env)->GetObjectArrayElement(env, texts, place);
  option->key = java_text(env, key);
  option->text = java_text(env, text);
  (*env)->DeleteLocalRef(env, key);
  (*env)->DeleteLocalRef(env, text);
  return !(*env)->ExceptionCheck(env);
}

xh_option* java_options(JNIEnv* env, jobjectArray packed, int64_t* count) {
  jobject field[5];
  xh_option* options;
  jsize i;
  *count = 0;
  if (packed == NULL || (*env)->ExceptionCheck(env)) return NULL;
  for (i = 0; i < 5; ++i) field[i] = (*env)->GetObjectArrayElement(env, packed, i);
  options = java_room(env, (jarray)field[0], sizeof(xh_option), count);
  for (i = 0; options != NULL && i < *count; ++i) {
    xh_option* option = &options[i];
    if (!ReadTexts(env, (jobjectArray)field[0], (jobjectArray)field[1], i, option)) break;
    (*env)->GetLongArrayRegion(env, (jlongArray)field[2], i, 1, (jlong*)&option->integer);
    (*env)->GetDoubleArrayRegion(env, (jdoubleArray)field[3], i, 1, &option->real);
    (*env)->GetIntArrayRegion(env, (jintArray)field[4], i, 1, (jint*)&option->kind);
  }
  return options;
}

void java_options_free(xh_option* options, int64_t count) {
  int64_t i;
  if (options == NULL) return;
  for (i = 0; i < count; ++i) {
    free((void*)options[i].key);
    free((void*)options[i].text);
  }
  free(options);
}
