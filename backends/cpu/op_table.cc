// The op table of one instruction set.
#include "backends/cpu/op_table.h"

#include "backends/cpu/ops.h"

#define XH_TEXT_OF(x) #x
#define XH_TEXT(x) XH_TEXT_OF(x)

namespace xh::cpu::XH_ISA {
namespace {

// op, name, inputs, outputs, open
constexpr OpEntry kEntries[] = {
    {XH_OP_MATMUL, "MATMUL", 3, 1, OpenMatmul},
    {XH_OP_RMS_NORM, "RMS_NORM", 2, 1, OpenRmsNorm},
    {XH_OP_ROPE, "ROPE", 3, 1, OpenRope},
    {XH_OP_ADD, "ADD", 2, 1, OpenAdd},
    {XH_OP_SWIGLU, "SWIGLU", 2, 1, OpenSwiglu},
    {XH_OP_EMBED, "EMBED", 2, 1, OpenEmbed},
    {XH_OP_CAST, "CAST", 1, 1, OpenCast},
    {XH_OP_FILL, "FILL", 0, 1, OpenFill},
    {XH_OP_REDUCE, "REDUCE", 1, 1, OpenReduce},
    {XH_OP_TOP_K, "TOP_K", 1, 2, OpenTopK},
    {XH_OP_MLSTM, "MLSTM", 9, 4, OpenMlstm},
    {XH_OP_ATTENTION, "ATTENTION", 7, 1, OpenAttention},
    {XH_OP_FEATURE_MAP, "FEATURE_MAP", 2, 1, OpenFeatureMap},
    {XH_OP_HEAD_GATE, "HEAD_GATE", 5, 1, OpenHeadGate},
    {XH_OP_MIX, "MIX", 3, 1, OpenMix},
    {XH_OP_SELECT_HEADS, "SELECT_HEADS", 1, 1, OpenSelectHeads},
    {XH_OP_ALIGN_LOSS, "ALIGN_LOSS", 3, 1, OpenAlignLoss},
    {XH_OP_DISTILL_LOSS, "DISTILL_LOSS", 5, 1, OpenDistillLoss},
    {XH_OP_ADAMW, "ADAMW", 2, 4, OpenAdamw},
    {XH_OP_CLIP, "CLIP", 2, 1, OpenClip},
};
constexpr OpTable kTable = {XH_TEXT(XH_ISA), kEntries, static_cast<int>(sizeof(kEntries) / sizeof(kEntries[0]))};

}  // namespace

const OpTable& Ops() { return kTable; }

}  // namespace xh::cpu::XH_ISA
