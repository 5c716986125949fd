// Every xh_* function of xhybrid.h (errors apart, see error.cc), each one guarded call into the core.
#include <cstring>
#include <exception>
#include <functional>
#include <limits>
#include <new>

#include "core/checkpoint/describe.h"
#include "core/checkpoint/dtype.h"
#include "core/checkpoint/reader.h"
#include "core/generate/batch.h"
#include "core/generate/session.h"
#include "core/job.h"
#include "core/json_fields.h"
#include "core/model/model.h"
#include "core/model/tap.h"
#include "core/options.h"
#include "core/runtime.h"
#include "xhybrid.h"

using nlohmann::json;
using xh::InvalidArgument;
using xh::Status;
using xh::StatusOr;

struct xh_bytes {
  std::string data;
};
struct xh_runtime {
  std::shared_ptr<xh::Runtime> runtime;
  std::vector<std::string> schemas;  // keeps what plugin_at lends
};
struct xh_checkpoint {
  std::shared_ptr<xh::CheckpointReader> reader;
};
struct xh_model {
  std::shared_ptr<const xh::Model> model;
};
struct xh_batch {
  std::unique_ptr<xh::Batch> batch;
  std::vector<std::optional<xh::Chosen>> chosen;  // whose pieces are lent by xh_batch_next
};
struct xh_session {
  std::unique_ptr<xh::Session> session;
  std::string piece;  // lent by xh_session_next
};
struct xh_job {
  std::shared_ptr<xh::Runtime> runtime;  // is talked to as long as the job works
  std::unique_ptr<xh::Job> job;
  std::string event;  // lent by xh_job_next
  bool finished = false;
  bool failed = false;  // a piece was left half way: nothing may follow it
};

namespace {

// Runs `body` so that no exception crosses the interface.
template <typename Body>
xh_error* Guard(Body&& body) noexcept {
  try {
    return xh::ToError(body());
  } catch (const std::bad_alloc&) {
    return xh::NewError(XH_OUT_OF_MEMORY, "core", "out of memory");
  } catch (const std::exception& error) {
    return xh::NewError(XH_INTERNAL, "core", error.what());
  } catch (...) {
    return xh::NewError(XH_INTERNAL, "core", "an unknown exception was thrown");
  }
}

template <typename... Pointers>
Status NotNull(const char* function, const Pointers*... pointers) {
  if (((pointers == nullptr) || ...)) return InvalidArgument(function, ": a required argument is NULL");
  return absl::OkStatus();
}

Status NotNegative(const char* function, const char* name, int64_t value) {
  if (value < 0) return InvalidArgument(function, ": ", name, " is ", value, "; allowed: 0 or more");
  return absl::OkStatus();
}

void HandOver(std::string text, xh_bytes** out) { *out = new xh_bytes{std::move(text)}; }

// Text of messages may hold any bytes (a path, a damaged name): what is not UTF-8 is replaced rather than thrown at.
std::string Dump(const json& value) { return value.dump(-1, ' ', false, json::error_handler_t::replace); }

// Options checked against a schema, defaults filled in.
StatusOr<json> Checked(const xh_option* options, int64_t count, const char* schema, const char* where,
                       const std::vector<std::string>& repeatable = {}) {
  XH_ASSIGN_OR_RETURN(json given, xh::OptionsToJson(options, count, repeatable));
  return xh::CheckOptions(schema, given, where);
}

constexpr char kRuntimeOptions[] = R"({"options": [
  {"name": "device", "type": "text", "default": "", "help": "backend to run on; empty takes the best found"},
  {"name": "threads", "type": "int", "default": 0, "min": 0, "max": 4096, "help": "0 takes every core"}]})";
constexpr char kCheckpointOptions[] = R"({"options": [
  {"name": "load_mode", "type": "text", "default": "map", "choices": ["map", "copy"],
   "help": "copy for storage that others may truncate"}]})";
constexpr char kModelOptions[] = R"({"options": [
  {"name": "dtype", "type": "text", "default": "stored", "choices": ["stored", "f32", "bf16"],
   "help": "what the weights are held in"}]})";
constexpr char kSessionOptions[] = R"({"options": [
  {"name": "capacity", "type": "int", "default": 0, "min": 0, "max": 1000000000,
   "help": "most tokens; 0 takes the model's context"}]})";
constexpr char kBatchOptions[] = R"({"options": [
  {"name": "slots", "type": "int", "default": 8, "min": 1, "max": 1024, "help": "sequences at most"},
  {"name": "capacity", "type": "int", "default": 0, "min": 0, "max": 1000000000,
   "help": "most tokens of a sequence; 0 takes the model's context"}]})";
constexpr char kSamplerOptions[] = R"({"options": [
  {"name": "temperature", "type": "real", "default": 0, "min": 0, "max": 100, "help": "0 is greedy"},
  {"name": "top_k", "type": "int", "default": 0, "min": 0, "max": 1000000000, "help": "0 takes all"},
  {"name": "top_p", "type": "real", "default": 1, "min": 0, "max": 1, "help": "nucleus"},
  {"name": "seed", "type": "int", "default": 0, "min": 0, "max": 9007199254740992, "help": ""},
  {"name": "max_tokens", "type": "int", "default": 256, "min": 1, "max": 1000000000, "help": ""},
  {"name": "stop", "type": "texts", "default": [], "help": "texts that end generation"}]})";

StatusOr<std::shared_ptr<xh::Runtime>> OpenRuntime(const xh_runtime_config* config) {
  xh::RuntimeOptions options;
  if (config == nullptr) return xh::Runtime::Open(std::move(options));
  if (config->struct_size < offsetof(xh_runtime_config, plugin_path)) {
    return InvalidArgument("xh_runtime_config.struct_size is ", config->struct_size, "; set it with XH_SIZED");
  }
  if (config->flags != 0) return xh::Unsupported("xh_runtime_config.flags is ", config->flags, "; allowed: 0");
  if (XH_COVERS(xh_runtime_config, config, plugin_path) && config->plugin_path != nullptr) {
    options.plugin_path = config->plugin_path;
  }
  if (XH_COVERS(xh_runtime_config, config, option_count)) {
    XH_ASSIGN_OR_RETURN(json checked, Checked(config->options, config->option_count, kRuntimeOptions, "runtime"));
    options.device = checked["device"].get<std::string>();
    options.threads = checked["threads"].get<int32_t>();
  }
  if (XH_COVERS(xh_runtime_config, config, log_user) && config->log != nullptr) {
    options.log = [log = config->log, user = config->log_user](xh_log_level level, const std::string& origin,
                                                               const std::string& text) {
      log(user, level, origin.c_str(), text.c_str());
    };
  }
  return xh::Runtime::Open(std::move(options));
}

StatusOr<std::vector<xh::Message>> ParseMessages(const char* text) {
  XH_ASSIGN_OR_RETURN(json messages, xh::ParseJson(text, "messages"));
  if (!messages.is_array()) return InvalidArgument("messages: must be a list of {\"role\", \"content\"}");
  std::vector<xh::Message> out;
  for (size_t i = 0; i < messages.size(); ++i) {
    xh::JsonFields fields(&messages[i], absl::StrCat("messages[", i, "]"));
    XH_ASSIGN_OR_RETURN(std::string role, fields.Text("role"));
    XH_ASSIGN_OR_RETURN(std::string content, fields.Text("content"));
    out.push_back({std::move(role), std::move(content)});
  }
  return out;
}

Status NeedTokenizer(const xh::Model& model) {
  if (model.tokenizer != nullptr) return absl::OkStatus();
  return xh::InvalidState(model.path, " has no tokenizer that can be used: ", model.tokenizer_problem);
}

}  // namespace

extern "C" {

uint32_t xh_version(void) { return XH_ABI_VERSION; }
const char* xh_release(void) { return XHYBRID_RELEASE; }

const void* xh_bytes_data(const xh_bytes* bytes) { return bytes != nullptr ? bytes->data.data() : ""; }
int64_t xh_bytes_size(const xh_bytes* bytes) { return bytes != nullptr ? static_cast<int64_t>(bytes->data.size()) : 0; }
void xh_bytes_free(xh_bytes* bytes) { delete bytes; }

// ---- runtime
// ----------------------------------------------------------------------------------------------------------

xh_error* xh_runtime_open(const xh_runtime_config* config, xh_runtime** out) {
  return Guard([&]() -> Status {
    XH_RETURN_IF_ERROR(NotNull("xh_runtime_open", out));
    XH_ASSIGN_OR_RETURN(std::shared_ptr<xh::Runtime> runtime, OpenRuntime(config));
    *out = new xh_runtime{std::move(runtime), {}};
    return absl::OkStatus();
  });
}

void xh_runtime_close(xh_runtime* runtime) { delete runtime; }

int64_t xh_runtime_plugin_count(const xh_runtime* runtime) {
  return runtime != nullptr ? static_cast<int64_t>(runtime->runtime->registry().plugins().size()) : 0;
}

xh_error* xh_runtime_plugin_at(const xh_runtime* runtime, int64_t index, xh_plugin_info* out) {
  return Guard([&]() -> Status {
    XH_RETURN_IF_ERROR(NotNull("xh_runtime_plugin_at", runtime, out));
    if (out->struct_size < sizeof(xh_plugin_info)) {
      return InvalidArgument("xh_plugin_info.struct_size is ", out->struct_size, "; set it with XH_SIZED");
    }
    const std::vector<xh::LoadedPlugin>& plugins = runtime->runtime->registry().plugins();
    if (index < 0 || index >= static_cast<int64_t>(plugins.size())) {
      return InvalidArgument("plugin index is ", index, "; allowed: 0 to ", plugins.size(), " - 1");
    }
    const xh::LoadedPlugin& loaded = plugins[index];
    const xh_plugin& plugin = *loaded.plugin;
    *out = {out->struct_size,
            plugin.kind,
            plugin.score,
            0,
            plugin.name,
            plugin.version,
            plugin.license,
            loaded.path.c_str(),
            xh::OptionsSchemaOf(plugin)};
    return absl::OkStatus();
  });
}

xh_error* xh_runtime_report(const xh_runtime* runtime, xh_bytes** out) {
  return Guard([&]() -> Status {
    XH_RETURN_IF_ERROR(NotNull("xh_runtime_report", runtime, out));
    HandOver(Dump(runtime->runtime->Report()), out);
    return absl::OkStatus();
  });
}

// ---- checkpoints
// ------------------------------------------------------------------------------------------------------

xh_error* xh_checkpoint_open(xh_runtime* runtime, const char* path, const xh_option* options, int64_t option_count,
                             xh_checkpoint** out) {
  return Guard([&]() -> Status {
    XH_RETURN_IF_ERROR(NotNull("xh_checkpoint_open", runtime, path, out));
    XH_ASSIGN_OR_RETURN(json checked, Checked(options, option_count, kCheckpointOptions, "checkpoint"));
    xh::LoadMode mode = checked["load_mode"] == "copy" ? xh::LoadMode::kCopy : xh::LoadMode::kMap;
    XH_ASSIGN_OR_RETURN(std::shared_ptr<xh::CheckpointReader> reader, xh::CheckpointReader::Open(path, mode));
    *out = new xh_checkpoint{std::move(reader)};
    return absl::OkStatus();
  });
}

void xh_checkpoint_free(xh_checkpoint* checkpoint) { delete checkpoint; }

int64_t xh_checkpoint_tensor_count(const xh_checkpoint* checkpoint) {
  return checkpoint != nullptr ? static_cast<int64_t>(checkpoint->reader->tensors().size()) : 0;
}

const char* xh_checkpoint_tensor_name(const xh_checkpoint* checkpoint, int64_t index) {
  if (index < 0 || index >= xh_checkpoint_tensor_count(checkpoint)) return nullptr;
  return checkpoint->reader->tensors()[index].name.c_str();
}

xh_error* xh_checkpoint_tensor(xh_checkpoint* checkpoint, const char* name, xh_tensor* out) {
  return Guard([&]() -> Status {
    XH_RETURN_IF_ERROR(NotNull("xh_checkpoint_tensor", checkpoint, name, out));
    const xh::TensorEntry* entry = checkpoint->reader->Find(name);
    if (entry == nullptr) return xh::NotFound(checkpoint->reader->directory(), ": there is no tensor \"", name, "\"");
    XH_ASSIGN_OR_RETURN(const void* data, checkpoint->reader->Data(name));
    xh_tensor tensor{};
    tensor.data = const_cast<void*>(data);
    tensor.rank = static_cast<int32_t>(entry->shape.size());
    tensor.dtype = entry->dtype;
    int64_t step = 1;
    for (size_t i = entry->shape.size(); i-- > 0;) {
      tensor.shape[i] = entry->shape[i];
      tensor.stride[i] = step;
      step *= entry->shape[i];
    }
    *out = tensor;
    return absl::OkStatus();
  });
}

xh_error* xh_checkpoint_verify(xh_checkpoint* checkpoint) {
  return Guard([&]() -> Status {
    XH_RETURN_IF_ERROR(NotNull("xh_checkpoint_verify", checkpoint));
    return checkpoint->reader->Verify();
  });
}

xh_error* xh_checkpoint_describe(xh_checkpoint* checkpoint, xh_bytes** out) {
  return Guard([&]() -> Status {
    XH_RETURN_IF_ERROR(NotNull("xh_checkpoint_describe", checkpoint, out));
    HandOver(Dump(xh::DescribeCheckpoint(*checkpoint->reader)), out);
    return absl::OkStatus();
  });
}

// ---- models
// -----------------------------------------------------------------------------------------------------------

xh_error* xh_model_load(xh_runtime* runtime, const char* path, const xh_option* options, int64_t option_count,
                        xh_model** out) {
  return Guard([&]() -> Status {
    XH_RETURN_IF_ERROR(NotNull("xh_model_load", runtime, path, out));
    XH_ASSIGN_OR_RETURN(json checked, Checked(options, option_count, kModelOptions, "model"));
    xh_dtype dtype = 0;
    if (checked["dtype"] != "stored") {
      XH_ASSIGN_OR_RETURN(dtype, xh::ParseDType(checked["dtype"].get<std::string>()));
    }
    XH_ASSIGN_OR_RETURN(std::shared_ptr<xh::Model> model, xh::Model::Load(runtime->runtime, path, dtype));
    *out = new xh_model{std::move(model)};
    return absl::OkStatus();
  });
}

void xh_model_free(xh_model* model) { delete model; }

xh_error* xh_model_describe(const xh_model* model, xh_bytes** out) {
  return Guard([&]() -> Status {
    XH_RETURN_IF_ERROR(NotNull("xh_model_describe", model, out));
    HandOver(Dump(model->model->Describe()), out);
    return absl::OkStatus();
  });
}

int64_t xh_model_vocab_size(const xh_model* model) { return model != nullptr ? model->model->config.vocab_size : 0; }

xh_error* xh_model_encode(const xh_model* model, const char* text, int64_t text_size, int32_t add_special, int32_t* ids,
                          int64_t capacity, int64_t* count) {
  return Guard([&]() -> Status {
    XH_RETURN_IF_ERROR(NotNull("xh_model_encode", model, text, count));
    XH_RETURN_IF_ERROR(NotNegative("xh_model_encode", "text_size", text_size));
    XH_RETURN_IF_ERROR(NotNegative("xh_model_encode", "capacity", capacity));
    if (ids == nullptr && capacity > 0) return InvalidArgument("xh_model_encode: ids is NULL with a capacity");
    XH_RETURN_IF_ERROR(NeedTokenizer(*model->model));
    XH_ASSIGN_OR_RETURN(std::vector<int32_t> encoded,
                        model->model->tokenizer->Encode(std::string(text, text_size), add_special != 0));
    int64_t written = std::min<int64_t>(capacity, static_cast<int64_t>(encoded.size()));
    std::copy_n(encoded.begin(), written, ids);
    *count = static_cast<int64_t>(encoded.size());
    return absl::OkStatus();
  });
}

xh_error* xh_model_decode(const xh_model* model, const int32_t* ids, int64_t count, xh_bytes** out) {
  return Guard([&]() -> Status {
    XH_RETURN_IF_ERROR(NotNull("xh_model_decode", model, out));
    XH_RETURN_IF_ERROR(NotNegative("xh_model_decode", "count", count));
    if (ids == nullptr && count > 0) return InvalidArgument("xh_model_decode: ids is NULL");
    XH_RETURN_IF_ERROR(NeedTokenizer(*model->model));
    XH_ASSIGN_OR_RETURN(std::string text, model->model->tokenizer->Decode(std::vector<int32_t>(ids, ids + count)));
    HandOver(std::move(text), out);
    return absl::OkStatus();
  });
}

xh_error* xh_model_chat(const xh_model* model, const char* messages_json, int32_t add_generation_prompt,
                        xh_bytes** out) {
  return Guard([&]() -> Status {
    XH_RETURN_IF_ERROR(NotNull("xh_model_chat", model, messages_json, out));
    XH_RETURN_IF_ERROR(NeedTokenizer(*model->model));
    XH_ASSIGN_OR_RETURN(std::vector<xh::Message> messages, ParseMessages(messages_json));
    XH_ASSIGN_OR_RETURN(std::string text, model->model->tokenizer->RenderChat(messages, add_generation_prompt != 0));
    HandOver(std::move(text), out);
    return absl::OkStatus();
  });
}

xh_error* xh_model_forward(const xh_model* model, const int32_t* ids, int64_t count, const char* tap, float* out,
                           int64_t capacity, int64_t* size) {
  return Guard([&]() -> Status {
    XH_RETURN_IF_ERROR(NotNull("xh_model_forward", model, ids, tap, size));
    XH_RETURN_IF_ERROR(NotNegative("xh_model_forward", "capacity", capacity));
    if (out == nullptr && capacity > 0) return InvalidArgument("xh_model_forward: out is NULL with a capacity");
    XH_ASSIGN_OR_RETURN(std::vector<float> values, xh::ForwardTap(*model->model, ids, count, tap));
    std::copy_n(values.begin(), std::min<int64_t>(capacity, static_cast<int64_t>(values.size())), out);
    *size = static_cast<int64_t>(values.size());
    return absl::OkStatus();
  });
}

xh_error* xh_model_score(const xh_model* model, const int32_t* ids, int64_t count, float* out) {
  return Guard([&]() -> Status {
    XH_RETURN_IF_ERROR(NotNull("xh_model_score", model, ids, out));
    XH_ASSIGN_OR_RETURN(std::vector<float> scores, xh::ScoreTokens(*model->model, ids, count));
    std::copy(scores.begin(), scores.end(), out);
    return absl::OkStatus();
  });
}

// ---- generation
// -------------------------------------------------------------------------------------------------------

xh_error* xh_session_open(const xh_model* model, const xh_option* options, int64_t option_count, xh_session** out) {
  return Guard([&]() -> Status {
    XH_RETURN_IF_ERROR(NotNull("xh_session_open", model, out));
    XH_ASSIGN_OR_RETURN(json checked, Checked(options, option_count, kSessionOptions, "session"));
    XH_ASSIGN_OR_RETURN(std::unique_ptr<xh::Session> session,
                        xh::Session::Open(model->model, checked["capacity"].get<int64_t>()));
    *out = new xh_session{std::move(session), {}};
    return absl::OkStatus();
  });
}

void xh_session_free(xh_session* session) { delete session; }

xh_error* xh_session_feed(xh_session* session, const int32_t* ids, int64_t count) {
  return Guard([&]() -> Status {
    XH_RETURN_IF_ERROR(NotNull("xh_session_feed", session));
    XH_RETURN_IF_ERROR(NotNegative("xh_session_feed", "count", count));
    if (ids == nullptr && count > 0) return InvalidArgument("xh_session_feed: ids is NULL");
    return session->session->Feed(ids, count);
  });
}

xh_error* xh_session_logits(xh_session* session, const float** logits, int64_t* count) {
  return Guard([&]() -> Status {
    XH_RETURN_IF_ERROR(NotNull("xh_session_logits", session, logits, count));
    XH_ASSIGN_OR_RETURN(const std::vector<float>* values, session->session->Logits());
    *logits = values->data();
    *count = static_cast<int64_t>(values->size());
    return absl::OkStatus();
  });
}

int64_t xh_session_position(const xh_session* session) { return session != nullptr ? session->session->position() : 0; }

int64_t xh_session_state_bytes(const xh_session* session) {
  return session != nullptr ? session->session->state_bytes() : 0;
}

xh_error* xh_session_sampler(xh_session* session, const xh_option* options, int64_t option_count) {
  return Guard([&]() -> Status {
    XH_RETURN_IF_ERROR(NotNull("xh_session_sampler", session));
    XH_ASSIGN_OR_RETURN(json checked, Checked(options, option_count, kSamplerOptions, "sampler", {"stop"}));
    xh::SamplerOptions sampler;
    sampler.temperature = checked["temperature"].get<double>();
    sampler.top_k = checked["top_k"].get<int64_t>();
    sampler.top_p = checked["top_p"].get<double>();
    sampler.seed = checked["seed"].get<uint64_t>();
    sampler.max_tokens = checked["max_tokens"].get<int64_t>();
    sampler.stop = checked["stop"].get<std::vector<std::string>>();
    return session->session->SetSampler(sampler);
  });
}

xh_error* xh_session_next(xh_session* session, int32_t* token, const char** piece, int64_t* piece_size,
                          int32_t* finished) {
  return Guard([&]() -> Status {
    XH_RETURN_IF_ERROR(NotNull("xh_session_next", session, token, piece, piece_size, finished));
    XH_ASSIGN_OR_RETURN(xh::Chosen chosen, session->session->Next());
    session->piece = std::move(chosen.piece);
    *token = chosen.token;
    *piece = session->piece.c_str();
    *piece_size = static_cast<int64_t>(session->piece.size());
    *finished = chosen.finished ? 1 : 0;
    return absl::OkStatus();
  });
}

xh_error* xh_session_snapshot(const xh_session* session, xh_bytes** out) {
  return Guard([&]() -> Status {
    XH_RETURN_IF_ERROR(NotNull("xh_session_snapshot", session, out));
    XH_ASSIGN_OR_RETURN(std::string bytes, session->session->Snapshot());
    HandOver(std::move(bytes), out);
    return absl::OkStatus();
  });
}

xh_error* xh_session_restore(xh_session* session, const void* data, int64_t size) {
  return Guard([&]() -> Status {
    XH_RETURN_IF_ERROR(NotNull("xh_session_restore", session, static_cast<const char*>(data)));
    XH_RETURN_IF_ERROR(NotNegative("xh_session_restore", "size", size));
    return session->session->Restore(data, size);
  });
}

xh_error* xh_session_fork(const xh_session* session, xh_session** out) {
  return Guard([&]() -> Status {
    XH_RETURN_IF_ERROR(NotNull("xh_session_fork", session, out));
    XH_ASSIGN_OR_RETURN(std::unique_ptr<xh::Session> fork, session->session->Fork());
    *out = new xh_session{std::move(fork), {}};
    return absl::OkStatus();
  });
}

xh_error* xh_session_reset(xh_session* session) {
  return Guard([&]() -> Status {
    XH_RETURN_IF_ERROR(NotNull("xh_session_reset", session));
    return session->session->Reset();
  });
}

xh_error* xh_batch_open(const xh_model* model, const xh_option* options, int64_t option_count, xh_batch** out) {
  return Guard([&]() -> Status {
    XH_RETURN_IF_ERROR(NotNull("xh_batch_open", model, out));
    XH_ASSIGN_OR_RETURN(json checked, Checked(options, option_count, kBatchOptions, "batch"));
    XH_ASSIGN_OR_RETURN(std::unique_ptr<xh::Batch> batch, xh::Batch::Open(model->model, checked["slots"].get<int64_t>(),
                                                                          checked["capacity"].get<int64_t>()));
    *out = new xh_batch{std::move(batch), {}};
    return absl::OkStatus();
  });
}

void xh_batch_free(xh_batch* batch) { delete batch; }

xh_error* xh_batch_put(xh_batch* batch, int64_t slot, const xh_session* session) {
  return Guard([&]() -> Status {
    XH_RETURN_IF_ERROR(NotNull("xh_batch_put", batch, session));
    return batch->batch->Put(slot, *session->session);
  });
}

xh_error* xh_batch_drop(xh_batch* batch, int64_t slot) {
  return Guard([&]() -> Status {
    XH_RETURN_IF_ERROR(NotNull("xh_batch_drop", batch));
    return batch->batch->Drop(slot);
  });
}

xh_error* xh_batch_next(xh_batch* batch, int32_t* tokens, const char** pieces, int64_t* piece_sizes, int32_t* finished,
                        int64_t slots) {
  return Guard([&]() -> Status {
    XH_RETURN_IF_ERROR(NotNull("xh_batch_next", batch, tokens, pieces, piece_sizes, finished));
    if (slots != batch->batch->slots()) {
      return InvalidArgument("xh_batch_next: slots is ", slots, "; allowed: the batch's ", batch->batch->slots());
    }
    XH_ASSIGN_OR_RETURN(batch->chosen, batch->batch->Next());
    for (int64_t slot = 0; slot < slots; ++slot) {
      const std::optional<xh::Chosen>& chosen = batch->chosen[static_cast<size_t>(slot)];
      tokens[slot] = chosen.has_value() ? chosen->token : -1;
      pieces[slot] = chosen.has_value() ? chosen->piece.c_str() : "";
      piece_sizes[slot] = chosen.has_value() ? static_cast<int64_t>(chosen->piece.size()) : 0;
      finished[slot] = chosen.has_value() && chosen->finished ? 1 : 0;
    }
    return absl::OkStatus();
  });
}

int64_t xh_batch_state_bytes(const xh_batch* batch) { return batch != nullptr ? batch->batch->state_bytes() : 0; }

// ---- jobs
// -------------------------------------------------------------------------------------------------------------

xh_error* xh_job_open(xh_runtime* runtime, const char* kind, const char* recipe_json, xh_job** out) {
  return Guard([&]() -> Status {
    XH_RETURN_IF_ERROR(NotNull("xh_job_open", runtime, kind, recipe_json, out));
    XH_ASSIGN_OR_RETURN(const xh::JobKind* found, xh::FindJobKind(kind));
    XH_ASSIGN_OR_RETURN(json recipe, xh::ParseJson(recipe_json, "recipe"));
    XH_ASSIGN_OR_RETURN(std::unique_ptr<xh::Job> job, found->open(runtime->runtime, recipe));
    *out = new xh_job{runtime->runtime, std::move(job), {}, false, false};
    return absl::OkStatus();
  });
}

xh_error* xh_job_schema(xh_runtime* runtime, const char* kind, xh_bytes** out) {
  return Guard([&]() -> Status {
    XH_RETURN_IF_ERROR(NotNull("xh_job_schema", runtime, out));
    if (kind != nullptr) {
      XH_ASSIGN_OR_RETURN(const xh::JobKind* found, xh::FindJobKind(kind));
      HandOver(found->options_schema, out);
      return absl::OkStatus();
    }
    json kinds = json::array();
    for (const xh::JobKind& entry : xh::JobKinds()) kinds.push_back({{"name", entry.name}, {"help", entry.help}});
    HandOver(Dump({{"kinds", kinds}}), out);
    return absl::OkStatus();
  });
}

xh_error* xh_job_next(xh_job* job, const char** event, int32_t* finished) {
  return Guard([&]() -> Status {
    XH_RETURN_IF_ERROR(NotNull("xh_job_next", job, event, finished));
    if (job->finished) return xh::InvalidState("the job has finished");
    if (job->failed) return xh::InvalidState("the job ended with an error: free it; what was saved stays");
    job->failed = true;  // until the piece is done, whatever is thrown
    json described = json::object();
    const xh::StatusOr<bool> next = job->job->Next(&described);
    if (!next.ok()) {
      job->failed = xh::CodeOf(next.status()) != XH_CANCELLED;
      return next.status();
    }
    const bool done = *next;
    job->event = Dump(described);
    job->finished = done;
    job->failed = false;
    *event = job->event.c_str();
    *finished = done ? 1 : 0;
    return absl::OkStatus();
  });
}

void xh_job_cancel(xh_job* job) {
  if (job != nullptr) job->job->Cancel();
}

xh_error* xh_job_result(const xh_job* job, xh_bytes** out) {
  return Guard([&]() -> Status {
    XH_RETURN_IF_ERROR(NotNull("xh_job_result", job, out));
    if (!job->finished) return xh::InvalidState("the job has not finished: call xh_job_next until it has");
    HandOver(Dump(job->job->Result()), out);
    return absl::OkStatus();
  });
}

void xh_job_free(xh_job* job) { delete job; }

}  // extern "C"
