// xhybrid.hpp - libxhybrid for C++17: xhybrid.h with owning handles and exceptions. Header only; every call is one or
// two of the C interface, whose words on threads hold here too.
//
//   xh::Runtime runtime;
//   xh::Model model = runtime.load("student.xhy");
//   xh::Session session = model.session();
//   session.feed(model.encode(model.chat({{"user", "What is 7 times 5?"}}), true));
//   std::cout << session.generate();
//
// A handle is movable, not copyable, and frees its object. A call on a moved-from handle throws xh::Error.
#ifndef XHYBRID_HPP_
#define XHYBRID_HPP_

#include <cstdint>
#include <cstdio>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "xhybrid.h"

namespace xh {

// What every failing call throws. what() is the message: what, where, the value, what is allowed.
class Error : public std::runtime_error {
 public:
  // Takes over `error`, which is not NULL.
  explicit Error(xh_error* error) : Error(std::unique_ptr<xh_error, void (*)(xh_error*)>(error, xh_error_free)) {}

  xh_code code() const noexcept { return code_; }                 // XH_INVALID_ARGUMENT, ...
  const std::string& origin() const noexcept { return origin_; }  // who raised it: "core", "cpu", "merge.ties"

 private:
  explicit Error(const std::unique_ptr<xh_error, void (*)(xh_error*)>& error)
      : std::runtime_error(xh_error_message(error.get())),
        code_(xh_error_code(error.get())),
        origin_(xh_error_origin(error.get())) {}

  xh_code code_;
  std::string origin_;
};

// A typed option: {"temperature", 0.7}, {"top_k", 40}, {"dtype", "bf16"}, {"flag", true}.
class Option {
 public:
  Option(std::string key, std::string text) : key_(std::move(key)), text_(std::move(text)), kind_(XH_OPTION_TEXT) {}
  Option(std::string key, const char* text) : Option(std::move(key), std::string(text)) {}
  template <typename Number, typename = std::enable_if_t<std::is_arithmetic_v<Number>>>
  Option(std::string key, Number value) : key_(std::move(key)) {
    if constexpr (std::is_floating_point_v<Number>) {
      kind_ = XH_OPTION_REAL;
      real_ = static_cast<double>(value);
    } else {
      kind_ = std::is_same_v<Number, bool> ? XH_OPTION_BOOL : XH_OPTION_INT;
      integer_ = static_cast<int64_t>(value);
    }
  }

  // The same as a C option; borrowed until this one changes.
  xh_option view() const { return {key_.c_str(), text_.c_str(), integer_, real_, kind_, 0}; }

 private:
  std::string key_;
  std::string text_;
  int64_t integer_ = 0;
  double real_ = 0;
  xh_option_kind kind_ = XH_OPTION_TEXT;
};
using Options = std::vector<Option>;

namespace detail {

inline void Check(xh_error* error) {
  if (error != nullptr) throw Error(error);
}

template <typename T, void (*free)(T*)>
struct Free {
  void operator()(T* object) const noexcept { free(object); }
};
template <typename T, void (*free)(T*)>
using Handle = std::unique_ptr<T, Free<T, free>>;

inline std::string Take(xh_bytes* bytes) {
  const Handle<xh_bytes, xh_bytes_free> owned(bytes);
  return std::string(static_cast<const char*>(xh_bytes_data(bytes)), static_cast<size_t>(xh_bytes_size(bytes)));
}

inline std::vector<xh_option> Views(const Options& options) {
  std::vector<xh_option> views;
  views.reserve(options.size());
  for (const Option& option : options) views.push_back(option.view());
  return views;
}

inline int64_t Size(const std::vector<xh_option>& views) { return static_cast<int64_t>(views.size()); }

inline std::string JsonText(std::string_view text) {
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') quoted += '\\';
    if (static_cast<unsigned char>(c) >= 0x20) {
      quoted += c;
      continue;
    }
    char escaped[8];
    std::snprintf(escaped, sizeof(escaped), "\\u%04x", static_cast<unsigned>(static_cast<unsigned char>(c)));
    quoted += escaped;
  }
  return quoted + "\"";
}

}  // namespace detail

// One token of a generation.
struct Token {
  int32_t id = 0;
  std::string piece;      // the text that became complete by it: whole characters, may be empty
  bool finished = false;  // the last one: end token, stop text or max_tokens
};

// One sequence being read and written. One thread at a time. Keeps its model alive.
class Session {
 public:
  explicit Session(xh_session* session) noexcept : handle_(session) {}  // takes over
  xh_session* get() const noexcept { return handle_.get(); }

  void feed(const std::vector<int32_t>& ids) {
    detail::Check(xh_session_feed(get(), ids.data(), static_cast<int64_t>(ids.size())));
  }
  // After the last token fed, [vocab].
  std::vector<float> logits() {
    const float* values = nullptr;
    int64_t count = 0;
    detail::Check(xh_session_logits(get(), &values, &count));
    return std::vector<float>(values, values + count);
  }
  int64_t position() const { return xh_session_position(get()); }
  int64_t state_bytes() const { return xh_session_state_bytes(get()); }

  // "temperature", "top_k", "top_p", "seed", "max_tokens", "stop" (may repeat), as xh_session_sampler says.
  void sampler(const Options& options) {
    const std::vector<xh_option> views = detail::Views(options);
    detail::Check(xh_session_sampler(get(), views.data(), detail::Size(views)));
  }
  Token next() {
    Token token;
    const char* piece = nullptr;
    int64_t size = 0;
    int32_t finished = 0;
    detail::Check(xh_session_next(get(), &token.id, &piece, &size, &finished));
    token.piece.assign(piece, static_cast<size_t>(size));
    token.finished = finished != 0;
    return token;
  }
  // Everything up to the end of the generation; on_piece(const std::string&) hears each piece as it comes.
  template <typename OnPiece>
  std::string generate(OnPiece&& on_piece) {
    std::string text;
    for (bool finished = false; !finished;) {
      const Token token = next();
      finished = token.finished;
      text += token.piece;
      on_piece(token.piece);
    }
    return text;
  }
  std::string generate() {
    return generate([](const std::string&) {});
  }

  // State as bytes; restore accepts them for a model of the same shape.
  std::string snapshot() const {
    xh_bytes* bytes = nullptr;
    detail::Check(xh_session_snapshot(get(), &bytes));
    return detail::Take(bytes);
  }
  void restore(std::string_view bytes) {
    detail::Check(xh_session_restore(get(), bytes.data(), static_cast<int64_t>(bytes.size())));
  }
  // An independent session that continues from the same state.
  Session fork() const {
    xh_session* session = nullptr;
    detail::Check(xh_session_fork(get(), &session));
    return Session(session);
  }
  void reset() { detail::Check(xh_session_reset(get())); }

 private:
  detail::Handle<xh_session, xh_session_free> handle_;
};

// Sequences that are written together; see xh_batch_open.
class Batch {
 public:
  Batch(xh_batch* batch, int64_t slots) noexcept : handle_(batch), slots_(slots) {}  // takes over
  xh_batch* get() const noexcept { return handle_.get(); }
  int64_t slots() const noexcept { return slots_; }

  // Copies a session of the same model that has read its prompt.
  void put(int64_t slot, const Session& session) { detail::Check(xh_batch_put(get(), slot, session.get())); }
  void drop(int64_t slot) { detail::Check(xh_batch_drop(get(), slot)); }
  // One token of every sequence, [slots]; id -1 where the slot is empty.
  std::vector<Token> next() {
    const auto slots = static_cast<size_t>(slots_);
    std::vector<int32_t> ids(slots), finished(slots);
    std::vector<const char*> pieces(slots);
    std::vector<int64_t> sizes(slots);
    detail::Check(xh_batch_next(get(), ids.data(), pieces.data(), sizes.data(), finished.data(), slots_));
    std::vector<Token> tokens(slots);
    for (size_t i = 0; i < slots; ++i) {
      tokens[i].id = ids[i];
      tokens[i].piece.assign(pieces[i], static_cast<size_t>(sizes[i]));
      tokens[i].finished = finished[i] != 0;
    }
    return tokens;
  }
  int64_t state_bytes() const { return xh_batch_state_bytes(get()); }

 private:
  detail::Handle<xh_batch, xh_batch_free> handle_;
  int64_t slots_;
};

struct Message {
  std::string role;  // "system", "user", "assistant"
  std::string content;
};

// A loaded model. Any thread. Keeps its runtime alive.
class Model {
 public:
  explicit Model(xh_model* model) noexcept : handle_(model) {}  // takes over
  xh_model* get() const noexcept { return handle_.get(); }

  // Configuration, mixers, parameter count, state bytes and history as JSON.
  std::string describe() const {
    xh_bytes* bytes = nullptr;
    detail::Check(xh_model_describe(get(), &bytes));
    return detail::Take(bytes);
  }
  int64_t vocab_size() const { return xh_model_vocab_size(get()); }

  // add_special: with what the tokenizer puts around a document, for example <s>.
  std::vector<int32_t> encode(std::string_view text, bool add_special = false) const {
    std::vector<int32_t> ids(text.size() + 8);  // a token is seldom shorter than a byte
    for (;;) {
      int64_t count = 0;
      const auto capacity = static_cast<int64_t>(ids.size());
      detail::Check(xh_model_encode(get(), text.data() != nullptr ? text.data() : "", static_cast<int64_t>(text.size()),
                                    add_special ? 1 : 0, ids.data(), capacity, &count));
      ids.resize(static_cast<size_t>(count));
      if (count <= capacity) return ids;
    }
  }
  std::string decode(const std::vector<int32_t>& ids) const {
    xh_bytes* bytes = nullptr;
    detail::Check(xh_model_decode(get(), ids.data(), static_cast<int64_t>(ids.size()), &bytes));
    return detail::Take(bytes);
  }
  // Messages rendered with the model's chat template.
  std::string chat(const std::vector<Message>& messages, bool add_generation_prompt = true) const {
    std::string json = "[";
    for (const Message& message : messages) {
      if (json.size() > 1) json += ',';
      json += "{\"role\":" + detail::JsonText(message.role) + ",\"content\":" + detail::JsonText(message.content) + "}";
    }
    xh_bytes* bytes = nullptr;
    detail::Check(xh_model_chat(get(), (json + "]").c_str(), add_generation_prompt ? 1 : 0, &bytes));
    return detail::Take(bytes);
  }
  // Full forward of one sequence, row-major: `tap` as xh_model_forward says ("logits", "hidden.N", ...).
  std::vector<float> forward(const std::vector<int32_t>& ids, const std::string& tap = "logits") const {
    std::vector<float> values;
    for (;;) {
      int64_t size = 0;
      const auto capacity = static_cast<int64_t>(values.size());
      detail::Check(xh_model_forward(get(), ids.data(), static_cast<int64_t>(ids.size()), tap.c_str(), values.data(),
                                     capacity, &size));
      values.resize(static_cast<size_t>(size));
      if (size <= capacity) return values;
    }
  }
  // log p(ids[t] | ids[0..t-1]) for t = 1 .. ids.size() - 1.
  std::vector<float> score(const std::vector<int32_t>& ids) const {
    std::vector<float> scores(ids.empty() ? 1 : ids.size());
    detail::Check(xh_model_score(get(), ids.data(), static_cast<int64_t>(ids.size()), scores.data()));
    scores.pop_back();
    return scores;
  }
  // Options: "capacity", most tokens.
  Session session(const Options& options = {}) const {
    const std::vector<xh_option> views = detail::Views(options);
    xh_session* session = nullptr;
    detail::Check(xh_session_open(get(), views.data(), detail::Size(views), &session));
    return Session(session);
  }
  // Room for `slots` sequences that are written together. Options: "capacity", as of a session.
  Batch batch(int64_t slots, Options options = {}) const {
    options.emplace_back("slots", slots);
    const std::vector<xh_option> views = detail::Views(options);
    xh_batch* batch = nullptr;
    detail::Check(xh_batch_open(get(), views.data(), detail::Size(views), &batch));
    return Batch(batch, slots);
  }

 private:
  detail::Handle<xh_model, xh_model_free> handle_;
};

// An open checkpoint directory. Any thread.
class Checkpoint {
 public:
  explicit Checkpoint(xh_checkpoint* checkpoint) noexcept : handle_(checkpoint) {}  // takes over
  xh_checkpoint* get() const noexcept { return handle_.get(); }

  std::vector<std::string> tensor_names() const {
    std::vector<std::string> names;
    for (int64_t i = 0; i < xh_checkpoint_tensor_count(get()); ++i) {
      names.emplace_back(xh_checkpoint_tensor_name(get(), i));
    }
    return names;
  }
  // A read-only host view, its digest checked. Borrowed until this checkpoint is gone.
  xh_tensor tensor(const std::string& name) const {
    xh_tensor tensor = {};
    detail::Check(xh_checkpoint_tensor(get(), name.c_str(), &tensor));
    return tensor;
  }
  void verify() const { detail::Check(xh_checkpoint_verify(get())); }
  std::string describe() const {
    xh_bytes* bytes = nullptr;
    detail::Check(xh_checkpoint_describe(get(), &bytes));
    return detail::Take(bytes);
  }

 private:
  detail::Handle<xh_checkpoint, xh_checkpoint_free> handle_;
};

// Long work: "import", "export", "tokenize", "plan", "distill", "probe", "merge", "evaluate", "bench". One thread at a
// time, cancel() from any.
class Job {
 public:
  explicit Job(xh_job* job) noexcept : handle_(job) {}  // takes over
  xh_job* get() const noexcept { return handle_.get(); }

  // Does the next piece of work and describes it, as JSON, in *event. False after the last piece.
  bool next(std::string* event) {
    const char* text = nullptr;
    int32_t finished = 0;
    detail::Check(xh_job_next(get(), &text, &finished));
    *event = text;
    return finished == 0;
  }
  // To the end; on_event(const std::string& json) hears every event. The outcome as JSON.
  template <typename OnEvent>
  std::string run(OnEvent&& on_event) {
    std::string event;
    for (bool more = true; more;) {
      more = next(&event);
      on_event(static_cast<const std::string&>(event));
    }
    return result();
  }
  std::string run() {
    return run([](const std::string&) {});
  }
  void cancel() noexcept { xh_job_cancel(get()); }
  std::string result() const {
    xh_bytes* bytes = nullptr;
    detail::Check(xh_job_result(get(), &bytes));
    return detail::Take(bytes);
  }

 private:
  detail::Handle<xh_job, xh_job_free> handle_;
};

struct RuntimeConfig {
  std::string plugin_path;  // directories or .so files searched first, separated by ':'
  Options options;          // "device", "threads"
  // Any thread. It and `log_user` must live as long as the runtime and everything opened from it.
  void (*log)(void* user, xh_log_level level, const char* origin, const char* text) = nullptr;
  void* log_user = nullptr;
};

// Where everything begins: the plugins that were found and the device. Any thread.
class Runtime {
 public:
  explicit Runtime(const RuntimeConfig& config = {}) {
    const std::vector<xh_option> views = detail::Views(config.options);
    const char* path = config.plugin_path.empty() ? nullptr : config.plugin_path.c_str();
    const xh_runtime_config c = {XH_SIZED(xh_runtime_config), 0,          path,           views.data(),
                                 detail::Size(views),         config.log, config.log_user};
    xh_runtime* runtime = nullptr;
    detail::Check(xh_runtime_open(&c, &runtime));
    handle_.reset(runtime);
  }
  xh_runtime* get() const noexcept { return handle_.get(); }

  // Strings of the infos are borrowed until the runtime is gone.
  std::vector<xh_plugin_info> plugins() const {
    std::vector<xh_plugin_info> infos(static_cast<size_t>(xh_runtime_plugin_count(get())));
    for (size_t i = 0; i < infos.size(); ++i) {
      infos[i].struct_size = XH_SIZED(xh_plugin_info);
      detail::Check(xh_runtime_plugin_at(get(), static_cast<int64_t>(i), &infos[i]));
    }
    return infos;
  }
  // What this host can run and why not, as JSON.
  std::string report() const {
    xh_bytes* bytes = nullptr;
    detail::Check(xh_runtime_report(get(), &bytes));
    return detail::Take(bytes);
  }
  // Options: "load_mode", "map" or "copy".
  Checkpoint open(const std::string& path, const Options& options = {}) const {
    const std::vector<xh_option> views = detail::Views(options);
    xh_checkpoint* checkpoint = nullptr;
    detail::Check(xh_checkpoint_open(get(), path.c_str(), views.data(), detail::Size(views), &checkpoint));
    return Checkpoint(checkpoint);
  }
  // A checkpoint or a Hugging Face directory. Options: "dtype", "stored", "f32" or "bf16".
  Model load(const std::string& path, const Options& options = {}) const {
    const std::vector<xh_option> views = detail::Views(options);
    xh_model* model = nullptr;
    detail::Check(xh_model_load(get(), path.c_str(), views.data(), detail::Size(views), &model));
    return Model(model);
  }
  Job job(const std::string& kind, const std::string& recipe_json) const {
    xh_job* job = nullptr;
    detail::Check(xh_job_open(get(), kind.c_str(), recipe_json.c_str(), &job));
    return Job(job);
  }
  // The options of a kind of job with types, defaults and help, as JSON; without a kind, the kinds.
  std::string job_schema(const std::string& kind = "") const {
    xh_bytes* bytes = nullptr;
    detail::Check(xh_job_schema(get(), kind.empty() ? nullptr : kind.c_str(), &bytes));
    return detail::Take(bytes);
  }

 private:
  detail::Handle<xh_runtime, xh_runtime_close> handle_;
};

}  // namespace xh

#endif  // XHYBRID_HPP_
