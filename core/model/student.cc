#include "core/model/student.h"

#include <cmath>

#include "core/checkpoint/dtype.h"
#include "core/json_fields.h"
#include "core/model/limits.h"
#include "core/model/mixer.h"

namespace xh {

const char kStudentSchema[] = R"({"options": [
  {"name": "kind", "type": "text", "default": "hybrid", "choices": ["hybrid", "attention", "window", "mlstm"],
   "help": "mixer of every layer: window and mLSTM with a gate, full attention, window alone, or mLSTM alone"},
  {"name": "feature_map", "type": "text", "default": "softmax", "choices": ["softmax", "hedgehog", "none"],
   "help": "features of the mLSTM's queries and keys"},
  {"name": "features", "type": "int", "default": 0, "min": 0, "max": 16384,
   "help": "features a head (hedgehog has twice as many); 0 takes the head dimension"},
  {"name": "window", "type": "int", "default": 512, "min": 1, "max": 1073741824,
   "help": "tokens that the local branch sees, the current one included"},
  {"name": "sinks", "type": "int", "default": 4, "min": 0, "max": 65536,
   "help": "first tokens of the sequence that stay visible"},
  {"name": "output_gate_bias", "type": "real", "default": -2, "min": -100, "max": 100,
   "help": "where the gate between mLSTM and window starts; negative: the window leads"},
  {"name": "layers", "type": "list", "default": [],
   "help": "overrides a layer, for example [{\"layer\": 4, \"kind\": \"attention\"}]"}]})";

namespace {

using nlohmann::json;

constexpr char kWhere[] = "student";

json Defaults() {
  return {{"kind", "hybrid"}, {"feature_map", "softmax"}, {"features", 0}, {"window", 512},
          {"sinks", 4},       {"output_gate_bias", -2.0}};
}

std::vector<std::string> KindNames() {
  std::vector<std::string> names;
  for (const MixerKind& kind : MixerKinds()) names.push_back(kind.name);
  return names;
}

// "window": a number for every key/value head, or a list with one each.
StatusOr<std::vector<int32_t>> ReadWindows(JsonFields& fields, int64_t kv_heads, const std::string& where) {
  const json* value = fields.Get("window");
  if (value == nullptr || !value->is_array()) {
    XH_ASSIGN_OR_RETURN(const int64_t window, fields.Int("window", 0, kMostPositions));
    return std::vector<int32_t>(static_cast<size_t>(kv_heads), static_cast<int32_t>(window));
  }
  std::vector<int32_t> windows;
  for (const json& window : *value) {
    const bool fits = window.is_number_integer() && window >= 0 && window <= kMostPositions;
    if (!fits) {
      return InvalidArgument(where, ": \"window\" holds ", ShownJson(window), "; allowed: integers from 0 to ",
                             kMostPositions);
    }
    windows.push_back(window.get<int32_t>());
  }
  return windows;  // CheckConfig counts them
}

// A mixer from options of which each is present; those that the kind does not have are passed over. "attention" keeps
// what the teacher has.
StatusOr<MixerConfig> ReadMixer(const ModelConfig& config, int64_t layer, const json& options,
                                const std::string& where) {
  JsonFields fields(&options, where);
  MixerConfig mixer;
  XH_ASSIGN_OR_RETURN(mixer.kind, fields.Choice("kind", KindNames()));
  if (mixer.kind == "attention") return TeacherMixer(config, layer);
  const MixerKind& kind = *FindMixerKind(mixer.kind);
  if (kind.has_mlstm) {
    XH_ASSIGN_OR_RETURN(mixer.feature_map, fields.Choice("feature_map", {"softmax", "hedgehog", "none"}));
    XH_ASSIGN_OR_RETURN(const int64_t features, fields.Int("features", 0, kMostFeatures));
    if (mixer.feature_map != "none") mixer.features = features > 0 ? features : config.head_dim;
  }
  if (kind.has_window) {
    XH_ASSIGN_OR_RETURN(mixer.windows, ReadWindows(fields, config.kv_heads, where));
    XH_ASSIGN_OR_RETURN(const int64_t sinks, fields.Int("sinks", 0, kMostSinks));
    mixer.sinks = static_cast<int32_t>(sinks);
  }
  if (kind.has_mlstm && kind.has_window) {
    XH_ASSIGN_OR_RETURN(mixer.output_gate_bias, fields.Real("output_gate_bias", -100, 100));
  }
  return mixer;
}

// The keys of `given` over those of *options; a key that options do not have is refused.
Status Override(const json& given, const std::string& where, json* options) {
  JsonFields fields(&given, where);
  for (auto& [key, value] : options->items()) {
    if (const json* other = fields.Get(key)) value = *other;
  }
  fields.Get("layer");
  fields.Get("layers");
  return fields.NoOthers();
}

// A layer in which the teacher slides sees no more than the teacher did, unless it is told so itself.
void NarrowWindow(int32_t teacher_window, json* options) {
  json& window = (*options)["window"];
  if (window.is_number_integer() && window > teacher_window) window = teacher_window;
}

// The overrides by layer.
StatusOr<std::vector<const json*>> ReadOverrides(const json* list, int64_t layer_count) {
  std::vector<const json*> overrides(static_cast<size_t>(layer_count), nullptr);
  if (list == nullptr) return overrides;
  if (!list->is_array()) {
    return InvalidArgument(kWhere, ": \"layers\" is not a list; allowed: a list of objects with \"layer\"");
  }
  for (const json& item : *list) {
    JsonFields fields(&item, absl::StrCat(kWhere, ": layers"));
    XH_ASSIGN_OR_RETURN(const int64_t layer, fields.Int("layer", 0, layer_count - 1));
    if (overrides[layer] != nullptr) return InvalidArgument(kWhere, ": \"layers\" names layer ", layer, " twice");
    overrides[layer] = &item;
  }
  return overrides;
}

// splitmix64 (Steele, Lea, Flood 2014), seeded by FNV-1a of a name.
class Generator {
 public:
  explicit Generator(const std::string& name) {
    for (char c : name) state_ = (state_ ^ static_cast<unsigned char>(c)) * 0x100000001b3ull;
  }

  // A standard normal value, by Box and Muller.
  double Normal() {
    const double radius = std::sqrt(-2 * std::log(1 - Uniform()));
    return radius * std::cos(2 * M_PI * Uniform());
  }

 private:
  double Uniform() {  // [0, 1)
    uint64_t z = state_ += 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return static_cast<double>((z ^ (z >> 31)) >> 11) * 0x1p-53;
  }

  uint64_t state_ = 0xcbf29ce484222325ull;
};

// [H,d,n]
void FillFeatures(const ParameterSpec& spec, std::vector<float>* values) {
  const int64_t dim = spec.shape[1], features = spec.shape[2];
  Generator generator(spec.name);
  const double deviation = 1 / std::sqrt(static_cast<double>(dim));
  for (size_t i = 0; i < values->size(); ++i) {
    const int64_t row = static_cast<int64_t>(i) / features % dim, column = static_cast<int64_t>(i) % features;
    const double value = dim != features ? deviation * generator.Normal() : row == column ? 1 : 0;
    (*values)[i] = static_cast<float>(spec.a * value);
  }
}

}  // namespace

StatusOr<ModelConfig> StudentConfig(const ModelConfig& teacher, const json& mixer_options) {
  json base = Defaults();
  XH_RETURN_IF_ERROR(Override(mixer_options, kWhere, &base));
  JsonFields fields(&mixer_options, kWhere);
  if (fields.Has("layer")) return InvalidArgument(kWhere, ": \"layer\" stands outside of \"layers\"");
  XH_ASSIGN_OR_RETURN(const std::vector<const json*> overrides,
                      ReadOverrides(fields.Get("layers"), teacher.layer_count));
  ModelConfig student = teacher;
  for (int64_t layer = 0; layer < teacher.layer_count; ++layer) {
    const std::string where = absl::StrCat(kWhere, ": layer ", layer);
    json options = base;
    if (IsSlidingLayer(teacher, layer)) NarrowWindow(teacher.sliding.window, &options);
    if (overrides[layer] != nullptr) XH_RETURN_IF_ERROR(Override(*overrides[layer], where, &options));
    XH_ASSIGN_OR_RETURN(student.mixers[layer], ReadMixer(teacher, layer, options, where));
  }
  XH_RETURN_IF_ERROR(CheckConfig(student, kWhere));
  return student;
}

StatusOr<std::vector<float>> InitialValue(const ParameterSpec& spec) {
  const int64_t count = ElementCount(spec.shape);
  std::vector<float> values(static_cast<size_t>(count), 0.0f);
  switch (spec.init) {
    case Init::kFromTeacher:
      return InvalidArgument("parameter \"", spec.name, "\" comes from the teacher: it has no value of its own");
    case Init::kZero:
      break;
    case Init::kConstant:
      values.assign(values.size(), static_cast<float>(spec.a));
      break;
    case Init::kIdentity:
      FillFeatures(spec, &values);
      break;
    case Init::kLinspace:
      for (size_t i = 0; i < values.size(); ++i) {
        const double step = count > 1 ? (spec.b - spec.a) / static_cast<double>(count - 1) : 0;
        values[i] = static_cast<float>(spec.a + step * static_cast<double>(i));
      }
      break;
  }
  return values;
}

}  // namespace xh
