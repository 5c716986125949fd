// A model in device memory: config, weights, tokenizer, and the graph of its forward.
#ifndef XHYBRID_CORE_MODEL_MODEL_H_
#define XHYBRID_CORE_MODEL_MODEL_H_

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/graph.h"
#include "core/model/config.h"
#include "core/ops.h"
#include "core/runtime.h"
#include "core/text/tokenizer.h"
#include "nlohmann/json.hpp"

namespace xh {

struct Weight {
  xh_dtype dtype;
  Shape shape;
  std::shared_ptr<Buffer> buffer;
};

// Immutable after loading; safe from any thread.
class Model {
 public:
  // A checkpoint directory (*.xhy) or a Hugging Face directory. dtype 0 keeps the stored one (f16 becomes f32); weights
  // with NaN or Inf are refused by name.
  static StatusOr<std::shared_ptr<Model>> Load(const std::shared_ptr<Runtime>& runtime, const std::string& path,
                                               xh_dtype dtype = 0);

  ModelConfig config;
  std::map<std::string, Weight> weights;
  std::shared_ptr<const Tokenizer> tokenizer;  // NULL when the directory has none
  std::string tokenizer_problem;               // why it is NULL
  nlohmann::json history = nlohmann::json::array();
  std::map<std::string, std::string> tokenizer_files;    // name -> bytes; travel with every checkpoint
  std::map<std::string, std::string> huggingface_files;  // config.json and generation_config.json of the teacher
  std::shared_ptr<Device> device;
  std::string path;

  // What sessions compute in and keep caches in: bf16 when the embeddings are bf16, else f32.
  xh_dtype activation_dtype() const;
  nlohmann::json Describe() const;
};

// A model that has config and sizes alone: its weights are memory of a device that rehearses, and no byte is read.
StatusOr<std::shared_ptr<const Model>> SketchModel(std::shared_ptr<Device> rehearsal, const std::string& path,
                                                   xh_dtype dtype);
// The decode state of one session.
int64_t DecodeStateBytes(const ModelConfig& config, int64_t capacity, xh_dtype activation);

// Gives the value of a parameter by name: how the same forward serves teacher, student and session.
using Binder = std::function<Value(Graph& graph, const std::string& name)>;
Binder FrozenBinder(const Model& model);

// Decode state of one session as graph values, by layer; see core/generate/session.h.
struct LayerState {
  MlstmState mlstm;  // values absent where the kind has none
  AttentionCache cache;
};

struct ForwardInput {
  int64_t batch = 1;
  int64_t tokens = 0;
  xh_dtype dtype = XH_F32;                         // of activations
  Value ids;                                       // i32[batch * tokens]
  Value position;                                  // i32[batch], tokens before this call; zeros without state
  Value rope_table;                                // f32[RopeTableShape]
  const std::vector<LayerState>* state = nullptr;  // NULL: whole sequences from position 0
  // i32[batch, tokens], rows packed from documents: where each token's document begins in its row (XH_OP_MLSTM). Then
  // position is i32[batch * tokens], each token's in its document: attention sees differences alone, but feature maps
  // of rotated q and k do not. Absent: one document a row. Not with state.
  Value start;
  // Results inside of blocks are not kept for the backward, but computed again there (Graph::Recompute).
  bool checkpoint_blocks = false;
};

// Values that a forward leaves for stages, taps and tests.
struct LayerTaps {
  Value mixer_in;   // [B*T, D], what the mixer reads (after the pre-attention norm)
  Value mixer_out;  // [B,H,T,d] view, before W_o
  Value gate;       // o f32 [B,N,T] of the N heads that mix two branches; absent where none does
};
struct ForwardOutput {
  std::vector<Value> hidden;  // layer_count + 1: embeddings, after each block; the last after the final norm
  std::vector<LayerTaps> layers;
  Normed final;        // [B*T, D] before and after the final norm
  Value final_hidden;  // after it
};

// Cosines and sines of SPEC.md's RoPE with the config's scaling, computed in double: [positions, d], d / 2 cosines then
// d / 2 sines a row. Where sliding layers have another RoPE a second table lies below it: [2 * positions, d].
std::vector<float> RopeTable(const ModelConfig& config, int64_t positions);
Shape RopeTableShape(const ModelConfig& config, int64_t positions);

// The whole model up to the final norm. Errors land in the graph.
ForwardOutput BuildForward(Graph& graph, const ModelConfig& config, const Binder& bind, const ForwardInput& input);
// The same from block `first` on, whose input is x [B*T, D]: hidden[i] is then the stream before block first + i, and
// `ids` is not read.
ForwardOutput BuildBlocks(Graph& graph, const ModelConfig& config, const Binder& bind, const ForwardInput& input,
                          Value x, int64_t first);
// One layer's mixer on `x` [B*T, D]: -> [B,H,T,d] before W_o (stage I feeds it with the teacher's x). `gate`: as in
// LayerTaps, or NULL.
Value BuildMixer(Graph& graph, const ModelConfig& config, int64_t layer, const Binder& bind, const ForwardInput& input,
                 const Normed& x, Value* gate = nullptr);
// Logits [M, V] of rows of the final hidden state, in `dtype`, 0 for theirs.
Value BuildLogits(Graph& graph, const ModelConfig& config, const Binder& bind, const Normed& hidden_rows,
                  xh_dtype dtype = 0);

}  // namespace xh

#endif  // XHYBRID_CORE_MODEL_MODEL_H_
