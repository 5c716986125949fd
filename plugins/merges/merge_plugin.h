// What every merge plugin needs: errors through the host, options, and sums that do not depend on who asks.
#ifndef XHYBRID_PLUGINS_MERGES_MERGE_PLUGIN_H_
#define XHYBRID_PLUGINS_MERGES_MERGE_PLUGIN_H_

#include <charconv>
#include <cmath>
#include <cstring>
#include <new>
#include <string>
#include <system_error>
#include <vector>

#include "xhybrid_plugin.h"

namespace xh_merges {

// One plugin a library, so one of each: set by the entry and by PluginOf.
inline const xh_host* the_host = nullptr;
inline const char* the_origin = "merge";

inline xh_error* Error(xh_code code, const std::string& text) {
  return the_host->error_new(code, the_origin, text.c_str());
}

// No exception leaves the plugin.
template <typename Body>
xh_error* Guard(Body body) noexcept {
  try {
    return body();
  } catch (const std::bad_alloc&) {
    return the_host->error_new(XH_OUT_OF_MEMORY, the_origin, "out of memory");
  } catch (const std::exception& error) {
    return the_host->error_new(XH_INTERNAL, the_origin, error.what());
  }
}

// Shortest text that reads back as the same number, whatever the locale.
inline std::string Shown(double value) {
  char text[32];
  const std::to_chars_result end = std::to_chars(text, text + sizeof(text), value);
  return std::string(text, end.ptr);
}

// A text that may hold anything, for an error message: one line of printable characters, cut when long.
inline std::string Quoted(const std::string& text) {
  constexpr size_t kMost = 60;
  std::string shown = text.substr(0, kMost);
  for (char& c : shown) {
    if (c < ' ' || c > '~') c = '?';
  }
  return "\"" + shown + (text.size() > kMost ? "\"..." : "\"");
}

// The options of one merge. A getter returns false after setting the error: what is wrong, its value, what is allowed.
class Options {
 public:
  Options(const xh_option* options, int64_t count) : options_(options), count_(count) {}

  // A finite number from `min` to `max`.
  bool Real(const char* key, double min, double max, double* out) {
    const xh_option* option = Find(key);
    if (option == nullptr) return Refuse(key, "missing", "a number");
    if (option->kind != XH_OPTION_REAL && option->kind != XH_OPTION_INT) {
      return Refuse(key, "of another kind", "a number");
    }
    *out = option->kind == XH_OPTION_INT ? static_cast<double>(option->integer) : option->real;
    if (*out >= min && *out <= max) return true;  // false for NaN
    return Refuse(key, Shown(*out), "a number from " + Shown(min) + " to " + Shown(max));
  }

  bool Bool(const char* key, bool* out) {
    const xh_option* option = Find(key);
    if (option == nullptr || option->kind != XH_OPTION_BOOL) return Refuse(key, "no truth value", "true or false");
    *out = option->integer != 0;
    return true;
  }

  // One finite number a model, or `otherwise` for each when the list is empty.
  bool Weights(const char* key, int32_t model_count, double min, double otherwise, std::vector<double>* out) {
    const xh_option* option = Find(key);
    if (option == nullptr || option->kind != XH_OPTION_TEXT || option->text == nullptr) {
      return Refuse(key, "no list", "a list of numbers");
    }
    const std::string text = option->text;
    out->assign(static_cast<size_t>(model_count), otherwise);
    if (text.empty()) return true;
    out->clear();
    for (size_t at = 0; at <= text.size();) {
      const size_t end = std::min(text.find(',', at), text.size());
      double value = 0;
      const std::from_chars_result read = std::from_chars(text.data() + at, text.data() + end, value);
      const bool whole = read.ec == std::errc() && read.ptr == text.data() + end;
      if (!whole || !std::isfinite(value) || value < min) {
        return Refuse(key, Quoted(text), "finite numbers" + (min == 0 ? std::string(", none negative") : ""));
      }
      out->push_back(value);
      at = end + 1;
    }
    if (out->size() == static_cast<size_t>(model_count)) return true;
    return Refuse(key, std::to_string(out->size()) + " numbers", std::to_string(model_count) + ", one a model");
  }

  xh_error* error() const { return error_; }

  bool Refuse(const std::string& key, const std::string& is, const std::string& allowed) {
    error_ = Error(XH_INVALID_ARGUMENT, "\"" + key + "\" is " + is + "; allowed: " + allowed);
    return false;
  }

 private:
  const xh_option* Find(const char* key) const {
    for (int64_t i = 0; i < count_; ++i) {
      if (options_[i].key != nullptr && std::strcmp(options_[i].key, key) == 0) return &options_[i];
    }
    return nullptr;
  }

  const xh_option* options_;
  int64_t count_;
  xh_error* error_ = nullptr;
};

inline double Sum(const std::vector<double>& values) {
  double sum = 0;
  for (double value : values) sum += value;
  return sum;
}

// True where `sum` of `weights` is zero but for rounding: dividing by it would blow the result up.
inline bool Vanishes(double sum, const std::vector<double>& weights) {
  double size = 0;
  for (double weight : weights) size += std::fabs(weight);
  return std::fabs(sum) <= 1e-9 * size;
}

// The scalar product of two arrays of n floats, summed in double in one fixed order.
inline double Dot(const float* a, const float* b, int64_t n) {
  constexpr int64_t kLanes = 8;
  double lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      lanes[lane] += static_cast<double>(a[i + lane]) * static_cast<double>(b[i + lane]);
    }
  }
  for (; i < n; ++i) lanes[i % kLanes] += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  double sum = 0;
  for (double lane : lanes) sum += lane;
  return sum;
}

}  // namespace xh_merges

// The entry of a library with one merge plugin; `table` is its xh_merge_table.
#define XH_MERGE_PLUGIN(name, table)                                                                             \
  const xh_plugin* xh_plugin_v1(const xh_host* host, int32_t index) {                                            \
    static constexpr xh_plugin plugin = {XH_SIZED(xh_plugin), XH_ABI_VERSION, XH_PLUGIN_MERGE, 1,      name,     \
                                         XHYBRID_RELEASE,     "Apache-2.0",   nullptr,         &table, nullptr}; \
    xh_merges::the_host = host;                                                                                  \
    xh_merges::the_origin = "merge." name;                                                                       \
    return index == 0 ? &plugin : nullptr;                                                                       \
  }

#endif  // XHYBRID_PLUGINS_MERGES_MERGE_PLUGIN_H_
