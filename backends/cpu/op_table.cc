// The op table of one instruction set.
#include "backends/cpu/op_table.h"

#include "backends/cpu/ops.h"

#define XH_TEXT_OF(x) #x
#define XH_TEXT(x) XH_TEXT_OF(x)

namespace xh::cpu::XH_ISA {
namespace {

constexpr OpEntry kEntries[] = {
    {XH_OP_MATMUL, OpenMatmul},
    {XH_OP_RMS_NORM, OpenRmsNorm},
    {XH_OP_ROPE, OpenRope},
    {XH_OP_ADD, OpenAdd},
    {XH_OP_SWIGLU, OpenSwiglu},
    {XH_OP_EMBED, OpenEmbed},
    {XH_OP_CAST, OpenCast},
    {XH_OP_FILL, OpenFill},
    {XH_OP_REDUCE, OpenReduce},
    {XH_OP_TOP_K, OpenTopK},
    {XH_OP_MLSTM, OpenMlstm},
    {XH_OP_ATTENTION, OpenAttention},
    {XH_OP_FEATURE_MAP, OpenFeatureMap},
    {XH_OP_HEAD_GATE, OpenHeadGate},
    {XH_OP_MIX, OpenMix},
    {XH_OP_SELECT_HEADS, OpenSelectHeads},
    {XH_OP_ALIGN_LOSS, OpenAlignLoss},
    {XH_OP_DISTILL_LOSS, OpenDistillLoss},
    {XH_OP_ADAMW, OpenAdamw},
    {XH_OP_CLIP, OpenClip},
};
constexpr OpTable kTable = {XH_TEXT(XH_ISA), kEntries, static_cast<int>(sizeof(kEntries) / sizeof(kEntries[0]))};

}  // namespace

const OpTable& Ops() { return kTable; }

}  // namespace xh::cpu::XH_ISA
