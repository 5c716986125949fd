// Sizes and offsets of the structs that applications and plugins share with the library, as version 1.0 released them
// on 64-bit hosts. A figure here never changes within ABI major 1: fields are appended, with new lines below the old.
#include "gtest/gtest.h"
#include "tests/abi/pin.h"
#include "xhybrid_plugin.h"

namespace {

using xh_abi::Pin;

const Pin kApplicationStructs[] = {
    XH_SIZE(xh_option, 40),
    XH_FIELD(xh_option, key, 0),
    XH_FIELD(xh_option, text, 8),
    XH_FIELD(xh_option, integer, 16),
    XH_FIELD(xh_option, real, 24),
    XH_FIELD(xh_option, kind, 32),
    XH_FIELD(xh_option, reserved, 36),
    XH_SIZE(xh_runtime_config, 48),
    XH_FIELD(xh_runtime_config, struct_size, 0),
    XH_FIELD(xh_runtime_config, flags, 4),
    XH_FIELD(xh_runtime_config, plugin_path, 8),
    XH_FIELD(xh_runtime_config, options, 16),
    XH_FIELD(xh_runtime_config, option_count, 24),
    XH_FIELD(xh_runtime_config, log, 32),
    XH_FIELD(xh_runtime_config, log_user, 40),
    XH_SIZE(xh_plugin_info, 56),
    XH_FIELD(xh_plugin_info, struct_size, 0),
    XH_FIELD(xh_plugin_info, kind, 4),
    XH_FIELD(xh_plugin_info, score, 8),
    XH_FIELD(xh_plugin_info, reserved, 12),
    XH_FIELD(xh_plugin_info, name, 16),
    XH_FIELD(xh_plugin_info, version, 24),
    XH_FIELD(xh_plugin_info, license, 32),
    XH_FIELD(xh_plugin_info, path, 40),
    XH_FIELD(xh_plugin_info, options_schema, 48),
    XH_SIZE(xh_tensor, 120),
    XH_FIELD(xh_tensor, data, 0),
    XH_FIELD(xh_tensor, shape, 8),
    XH_FIELD(xh_tensor, stride, 56),
    XH_FIELD(xh_tensor, rank, 104),
    XH_FIELD(xh_tensor, dtype, 108),
    XH_FIELD(xh_tensor, device, 112),
    XH_FIELD(xh_tensor, flags, 116),
};

const Pin kPluginStructs[] = {
    XH_SIZE(xh_host, 24),
    XH_FIELD(xh_host, struct_size, 0),
    XH_FIELD(xh_host, abi, 4),
    XH_FIELD(xh_host, error_new, 8),
    XH_FIELD(xh_host, log, 16),
    XH_SIZE(xh_plugin, 64),
    XH_FIELD(xh_plugin, struct_size, 0),
    XH_FIELD(xh_plugin, abi, 4),
    XH_FIELD(xh_plugin, kind, 8),
    XH_FIELD(xh_plugin, score, 12),
    XH_FIELD(xh_plugin, name, 16),
    XH_FIELD(xh_plugin, version, 24),
    XH_FIELD(xh_plugin, license, 32),
    XH_FIELD(xh_plugin, unavailable, 40),
    XH_FIELD(xh_plugin, table, 48),
    XH_FIELD(xh_plugin, shutdown, 56),
    XH_SIZE(xh_norm_params, 8),
    XH_FIELD(xh_norm_params, struct_size, 0),
    XH_FIELD(xh_norm_params, eps, 4),
    XH_SIZE(xh_fill_params, 8),
    XH_FIELD(xh_fill_params, struct_size, 0),
    XH_FIELD(xh_fill_params, value, 4),
    XH_SIZE(xh_top_k_params, 8),
    XH_FIELD(xh_top_k_params, struct_size, 0),
    XH_FIELD(xh_top_k_params, top_k, 4),
    XH_SIZE(xh_reduce_params, 8),
    XH_FIELD(xh_reduce_params, struct_size, 0),
    XH_FIELD(xh_reduce_params, kind, 4),
    XH_SIZE(xh_mlstm_params, 16),
    XH_FIELD(xh_mlstm_params, struct_size, 0),
    XH_FIELD(xh_mlstm_params, normalizer, 4),
    XH_FIELD(xh_mlstm_params, scale, 8),
    XH_FIELD(xh_mlstm_params, chunk, 12),
    XH_SIZE(xh_attention_params, 32),
    XH_FIELD(xh_attention_params, struct_size, 0),
    XH_FIELD(xh_attention_params, sinks, 4),
    XH_FIELD(xh_attention_params, scale, 8),
    XH_FIELD(xh_attention_params, kv_heads, 12),
    XH_FIELD(xh_attention_params, windows, 16),
    XH_FIELD(xh_attention_params, capacity, 24),
    XH_SIZE(xh_feature_map_params, 8),
    XH_FIELD(xh_feature_map_params, struct_size, 0),
    XH_FIELD(xh_feature_map_params, kind, 4),
    XH_SIZE(xh_heads_params, 16),
    XH_FIELD(xh_heads_params, struct_size, 0),
    XH_FIELD(xh_heads_params, count, 4),
    XH_FIELD(xh_heads_params, heads, 8),
    XH_SIZE(xh_distill_params, 20),
    XH_FIELD(xh_distill_params, struct_size, 0),
    XH_FIELD(xh_distill_params, mode, 4),
    XH_FIELD(xh_distill_params, gamma, 8),
    XH_FIELD(xh_distill_params, beta, 12),
    XH_FIELD(xh_distill_params, temperature, 16),
    XH_SIZE(xh_adamw_params, 20),
    XH_FIELD(xh_adamw_params, struct_size, 0),
    XH_FIELD(xh_adamw_params, beta1, 4),
    XH_FIELD(xh_adamw_params, beta2, 8),
    XH_FIELD(xh_adamw_params, eps, 12),
    XH_FIELD(xh_adamw_params, weight_decay, 16),
    XH_SIZE(xh_clip_params, 8),
    XH_FIELD(xh_clip_params, struct_size, 0),
    XH_FIELD(xh_clip_params, limit, 4),
    XH_SIZE(xh_op_desc, 40),
    XH_FIELD(xh_op_desc, struct_size, 0),
    XH_FIELD(xh_op_desc, op, 4),
    XH_FIELD(xh_op_desc, pass, 8),
    XH_FIELD(xh_op_desc, flags, 12),
    XH_FIELD(xh_op_desc, args, 16),
    XH_FIELD(xh_op_desc, arg_count, 24),
    XH_FIELD(xh_op_desc, params_size, 28),
    XH_FIELD(xh_op_desc, params, 32),
    XH_SIZE(xh_plan_info, 40),
    XH_FIELD(xh_plan_info, struct_size, 0),
    XH_FIELD(xh_plan_info, flags, 4),
    XH_FIELD(xh_plan_info, workspace_bytes, 8),
    XH_FIELD(xh_plan_info, saved_bytes, 16),
    XH_FIELD(xh_plan_info, alignment, 24),
    XH_FIELD(xh_plan_info, implementation, 32),
    XH_SIZE(xh_text_file, 24),
    XH_FIELD(xh_text_file, name, 0),
    XH_FIELD(xh_text_file, bytes, 8),
    XH_FIELD(xh_text_file, size, 16),
    XH_SIZE(xh_message, 16),
    XH_FIELD(xh_message, role, 0),
    XH_FIELD(xh_message, content, 8),
};

TEST(StructLayout, ApplicationStructsAreAsReleased) { xh_abi::ExpectPinned(kApplicationStructs); }
TEST(StructLayout, PluginStructsAreAsReleased) { xh_abi::ExpectPinned(kPluginStructs); }

TEST(StructLayout, CoversTellsWhetherAnOlderCallerHasAField) {
  xh_runtime_config config = {};
  config.struct_size = offsetof(xh_runtime_config, log);
  EXPECT_TRUE(XH_COVERS(xh_runtime_config, &config, option_count));
  EXPECT_FALSE(XH_COVERS(xh_runtime_config, &config, log));
  config.struct_size = XH_SIZED(xh_runtime_config);
  EXPECT_TRUE(XH_COVERS(xh_runtime_config, &config, log_user));
}

}  // namespace
