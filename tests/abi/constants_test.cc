// The numbers behind the names of the headers, as version 1.0 released them: bindings and stored files hold the
// numbers.
#include <cstdint>

#include "gtest/gtest.h"
#include "xhybrid_plugin.h"

namespace {

struct Constant {
  const char* name;
  int64_t value;
  int64_t released;
};

const Constant kConstants[] = {
    {"XH_INVALID_ARGUMENT", XH_INVALID_ARGUMENT, 1},
    {"XH_INVALID_STATE", XH_INVALID_STATE, 2},
    {"XH_NOT_FOUND", XH_NOT_FOUND, 3},
    {"XH_UNSUPPORTED", XH_UNSUPPORTED, 4},
    {"XH_OUT_OF_MEMORY", XH_OUT_OF_MEMORY, 5},
    {"XH_IO", XH_IO, 6},
    {"XH_CORRUPT", XH_CORRUPT, 7},
    {"XH_INCOMPATIBLE", XH_INCOMPATIBLE, 8},
    {"XH_DEVICE_LOST", XH_DEVICE_LOST, 9},
    {"XH_CANCELLED", XH_CANCELLED, 10},
    {"XH_INTERNAL", XH_INTERNAL, 11},
    {"XH_OPTION_TEXT", XH_OPTION_TEXT, 1},
    {"XH_OPTION_INT", XH_OPTION_INT, 2},
    {"XH_OPTION_REAL", XH_OPTION_REAL, 3},
    {"XH_OPTION_BOOL", XH_OPTION_BOOL, 4},
    {"XH_LOG_DEBUG", XH_LOG_DEBUG, 0},
    {"XH_LOG_INFO", XH_LOG_INFO, 1},
    {"XH_LOG_WARNING", XH_LOG_WARNING, 2},
    {"XH_LOG_ERROR", XH_LOG_ERROR, 3},
    {"XH_PLUGIN_BACKEND", XH_PLUGIN_BACKEND, 1},
    {"XH_PLUGIN_STAGE", XH_PLUGIN_STAGE, 2},
    {"XH_PLUGIN_MERGE", XH_PLUGIN_MERGE, 3},
    {"XH_PLUGIN_TEXT", XH_PLUGIN_TEXT, 4},
    {"XH_F32", XH_F32, 1},
    {"XH_F16", XH_F16, 2},
    {"XH_BF16", XH_BF16, 3},
    {"XH_I32", XH_I32, 4},
    {"XH_I64", XH_I64, 5},
    {"XH_U8", XH_U8, 6},
    {"XH_MAX_RANK", XH_MAX_RANK, 6},
    {"XH_OP_MATMUL", XH_OP_MATMUL, 1},
    {"XH_OP_RMS_NORM", XH_OP_RMS_NORM, 2},
    {"XH_OP_ROPE", XH_OP_ROPE, 3},
    {"XH_OP_ADD", XH_OP_ADD, 4},
    {"XH_OP_SWIGLU", XH_OP_SWIGLU, 5},
    {"XH_OP_EMBED", XH_OP_EMBED, 6},
    {"XH_OP_CAST", XH_OP_CAST, 7},
    {"XH_OP_FILL", XH_OP_FILL, 8},
    {"XH_OP_REDUCE", XH_OP_REDUCE, 9},
    {"XH_OP_TOP_K", XH_OP_TOP_K, 10},
    {"XH_OP_DENSE", XH_OP_DENSE, 11},
    {"XH_OP_MLSTM", XH_OP_MLSTM, 32},
    {"XH_OP_ATTENTION", XH_OP_ATTENTION, 33},
    {"XH_OP_FEATURE_MAP", XH_OP_FEATURE_MAP, 34},
    {"XH_OP_HEAD_GATE", XH_OP_HEAD_GATE, 35},
    {"XH_OP_MIX", XH_OP_MIX, 36},
    {"XH_OP_SELECT_HEADS", XH_OP_SELECT_HEADS, 37},
    {"XH_OP_HYBRID_STEP", XH_OP_HYBRID_STEP, 38},
    {"XH_OP_ALIGN_LOSS", XH_OP_ALIGN_LOSS, 48},
    {"XH_OP_DISTILL_LOSS", XH_OP_DISTILL_LOSS, 49},
    {"XH_OP_ADAMW", XH_OP_ADAMW, 50},
    {"XH_OP_CLIP", XH_OP_CLIP, 51},
    {"XH_INFER", XH_INFER, 0},
    {"XH_FORWARD", XH_FORWARD, 1},
    {"XH_BACKWARD", XH_BACKWARD, 2},
    {"XH_TENSOR_ACCUMULATE", XH_TENSOR_ACCUMULATE, 1},
    {"XH_REDUCE_SUM", XH_REDUCE_SUM, 0},
    {"XH_REDUCE_SUM_SQUARES", XH_REDUCE_SUM_SQUARES, 1},
    {"XH_DENSE_LINEAR", XH_DENSE_LINEAR, 0},
    {"XH_DENSE_SWIGLU", XH_DENSE_SWIGLU, 1},
    {"XH_NORMALIZER_PLAIN", XH_NORMALIZER_PLAIN, 0},
    {"XH_NORMALIZER_MAX", XH_NORMALIZER_MAX, 1},
    {"XH_FEATURE_SOFTMAX", XH_FEATURE_SOFTMAX, 0},
    {"XH_FEATURE_HEDGEHOG", XH_FEATURE_HEDGEHOG, 1},
    {"XH_KL_RENORMALIZED", XH_KL_RENORMALIZED, 0},
    {"XH_KL_FULL_STUDENT", XH_KL_FULL_STUDENT, 1},
    {"XH_KL_TAIL_BUCKET", XH_KL_TAIL_BUCKET, 2},
    {"XH_TEACHER", XH_TEACHER, 0},
    {"XH_STUDENT", XH_STUDENT, 1},
    {"XH_STUDENT_MIXERS", XH_STUDENT_MIXERS, 2},
    {"XH_MERGE_ELEMENTWISE", XH_MERGE_ELEMENTWISE, 1},
    {"XH_MERGE_NEEDS_BASE", XH_MERGE_NEEDS_BASE, 2},
    {"XH_MERGE_TWO_PASS", XH_MERGE_TWO_PASS, 4},
};

TEST(Constants, HaveTheNumbersTheyWereReleasedWith) {
  for (const Constant& constant : kConstants) EXPECT_EQ(constant.value, constant.released) << constant.name;
}

TEST(Constants, TheVersionIsMajorOneMinorZero) {
  EXPECT_EQ(XH_ABI_VERSION, 0x00010000u);
  EXPECT_NE(XH_ABI_VERSION, 0u) << "zero is refused everywhere";
}

}  // namespace
