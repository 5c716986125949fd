// The slot of every entry of the function tables, in units of a pointer, as version 1.0 released them on 64-bit hosts.
// Tables are appended to, never reordered: a plugin built with an older header fills the same slots.
#include "gtest/gtest.h"
#include "tests/abi/pin.h"
#include "xhybrid_plugin.h"

namespace {

using xh_abi::Pin;

const Pin kSlots[] = {
    XH_SIZE(xh_backend, 168),
    XH_FIELD(xh_backend, struct_size, 0),
    XH_FIELD(xh_backend, reserved, 4),
    XH_SLOT(xh_backend, device_count, 1),
    XH_SLOT(xh_backend, device_open, 2),
    XH_SLOT(xh_backend, device_close, 3),
    XH_SLOT(xh_backend, device_query, 4),
    XH_SLOT(xh_backend, allocate, 5),
    XH_SLOT(xh_backend, release, 6),
    XH_SLOT(xh_backend, stream_open, 7),
    XH_SLOT(xh_backend, stream_close, 8),
    XH_SLOT(xh_backend, record, 9),
    XH_SLOT(xh_backend, wait, 10),
    XH_SLOT(xh_backend, event_close, 11),
    XH_SLOT(xh_backend, synchronize, 12),
    XH_SLOT(xh_backend, copy, 13),
    XH_SLOT(xh_backend, plan_open, 14),
    XH_SLOT(xh_backend, plan_close, 15),
    XH_SLOT(xh_backend, plan_run, 16),
    XH_SLOT(xh_backend, capture_begin, 17),
    XH_SLOT(xh_backend, capture_end, 18),
    XH_SLOT(xh_backend, capture_replay, 19),
    XH_SLOT(xh_backend, capture_close, 20),
    XH_SIZE(xh_stage_host, 40),
    XH_FIELD(xh_stage_host, struct_size, 0),
    XH_FIELD(xh_stage_host, reserved, 4),
    XH_SLOT(xh_stage_host, trainable, 1),
    XH_SLOT(xh_stage_host, forward, 2),
    XH_SLOT(xh_stage_host, loss, 3),
    XH_SLOT(xh_stage_host, minimize, 4),
    XH_SIZE(xh_stage_table, 56),
    XH_FIELD(xh_stage_table, struct_size, 0),
    XH_FIELD(xh_stage_table, reserved, 4),
    XH_SLOT(xh_stage_table, options_schema, 1),
    XH_SLOT(xh_stage_table, open, 2),
    XH_SLOT(xh_stage_table, declare, 3),
    XH_SLOT(xh_stage_table, save, 4),
    XH_SLOT(xh_stage_table, restore, 5),
    XH_SLOT(xh_stage_table, close, 6),
    XH_SIZE(xh_merge_table, 56),
    XH_FIELD(xh_merge_table, struct_size, 0),
    XH_FIELD(xh_merge_table, traits, 4),
    XH_SLOT(xh_merge_table, min_models, 1),
    XH_FIELD(xh_merge_table, max_models, 12),
    XH_SLOT(xh_merge_table, options_schema, 2),
    XH_SLOT(xh_merge_table, open, 3),
    XH_SLOT(xh_merge_table, observe, 4),
    XH_SLOT(xh_merge_table, combine, 5),
    XH_SLOT(xh_merge_table, close, 6),
    XH_SIZE(xh_text_table, 96),
    XH_FIELD(xh_text_table, struct_size, 0),
    XH_FIELD(xh_text_table, reserved, 4),
    XH_SLOT(xh_text_table, main_file, 1),
    XH_SLOT(xh_text_table, open, 2),
    XH_SLOT(xh_text_table, close, 3),
    XH_SLOT(xh_text_table, vocab_size, 4),
    XH_SLOT(xh_text_table, encode, 5),
    XH_SLOT(xh_text_table, decode, 6),
    XH_SLOT(xh_text_table, special, 7),
    XH_SLOT(xh_text_table, stream_open, 8),
    XH_SLOT(xh_text_table, stream_push, 9),
    XH_SLOT(xh_text_table, stream_close, 10),
    XH_SLOT(xh_text_table, render, 11),
};

TEST(FunctionTables, SlotsAreAsReleased) { xh_abi::ExpectPinned(kSlots); }

}  // namespace
