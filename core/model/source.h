// A model on disk, checked but not read: the one way in for loading, importing, training and merging.
#ifndef XHYBRID_CORE_MODEL_SOURCE_H_
#define XHYBRID_CORE_MODEL_SOURCE_H_

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/model/config.h"
#include "nlohmann/json.hpp"

namespace xh {

// One parameter as it is stored.
struct SourceTensor {
  std::string name;
  xh_dtype dtype = 0;  // f32, f16 or bf16
  Shape shape;
};

struct ModelSource {
  ModelConfig config;
  std::vector<SourceTensor> tensors;  // exactly ParametersOf(config), in that order
  // The tensor's bytes, possibly unaligned, valid while the source lives.
  std::function<StatusOr<const void*>(const std::string& name)> view;
  std::map<std::string, std::string> tokenizer_files;    // name -> bytes
  std::map<std::string, std::string> huggingface_files;  // "config.json", "generation_config.json"
  nlohmann::json history = nlohmann::json::array();      // what made this model, oldest first
};

// A checkpoint directory (*.xhy) or a Hugging Face directory. Checks the config, and name, shape and dtype of every
// tensor, before any tensor is read. NotFound, Corrupt, Incompatible, Unsupported or InvalidArgument.
StatusOr<ModelSource> OpenModelSource(const std::string& path);
// The tokenizer files of a model, or of a directory that holds nothing else; without opening any weights.
StatusOr<std::map<std::string, std::string>> ReadTokenizerFiles(const std::string& path);
// A Hugging Face directory alone: of a teacher, or one that export wrote.
StatusOr<ModelSource> OpenHuggingFace(const std::string& directory);
// The config in the files "config.json" and "generation_config.json" of a teacher; `directory` opens the messages.
StatusOr<ModelConfig> ReadHuggingFaceConfig(const std::map<std::string, std::string>& files,
                                            const std::string& directory);
// The same of a directory that need hold nothing but these files.
StatusOr<ModelConfig> ReadHuggingFaceConfig(const std::string& directory);

// The tensors of `stored` that are the parameters of `config`, in the order of ParametersOf. `where` opens the
// messages; Incompatible for a tensor that is missing, surplus or of another shape, by name. Surplus tensors that are
// known to carry nothing are passed over: "...rotary_emb.inv_freq", a copy of tied embeddings as "lm_head.weight", and
// names with a '/', which belong to other parts of a checkpoint.
StatusOr<std::vector<SourceTensor>> MatchTensors(const ModelConfig& config, const std::vector<SourceTensor>& stored,
                                                 const std::string& where);

// Converts `count` values, f32, f16 or bf16, to `to` (one of these) in `out`, which may be NULL to check only. Corrupt,
// naming `name` and the first element, when one is NaN or infinite. `data` may be unaligned.
Status ConvertFinite(const std::string& name, xh_dtype from, const void* data, int64_t count, xh_dtype to, void* out);

}  // namespace xh

#endif  // XHYBRID_CORE_MODEL_SOURCE_H_
