// nlohmann/json.hpp, found before the installed one, with what there needs memory in a noexcept function, where
// std::bad_alloc ends the process.
#pragma once
#pragma GCC system_header  // include_next is an extension
#include_next <nlohmann/json.hpp>

// The installed destructor moves the children of a list or an object into a vector first, so that deep nesting cannot
// exhaust the stack. Here they are destroyed where they are: ParseJson bounds the nesting. Null: an assignment that ran
// out of memory leaves the type of a list or an object without one.
template <>
inline void nlohmann::json::json_value::destroy(value_t type) {
  if (type == value_t::object) delete object;
  if (type == value_t::array) delete array;
  if (type == value_t::string) delete string;
  if (type == value_t::binary) delete binary;
}

// The installed constructor from {...} makes its container first and loses it when a member finds no memory: no
// destructor runs for an object that was not made.
template <>
inline nlohmann::json::basic_json(initializer_list_t items, bool type_deduction, value_t manual_type) {
  const bool pairs = std::all_of(items.begin(), items.end(), [](const detail::json_ref<basic_json>& item) {
    return item->is_array() && item->size() == 2 && (*item)[0].is_string();
  });
  if (!type_deduction && manual_type == value_t::object && !pairs) {
    throw detail::type_error::create(301, "cannot create object from initializer list", nullptr);
  }
  if (pairs && (type_deduction || manual_type == value_t::object)) {
    object_t members;
    for (const detail::json_ref<basic_json>& item : items) {
      basic_json pair = item.moved_or_copied();
      members.emplace(std::move(*(*pair.m_value.array)[0].m_value.string), std::move((*pair.m_value.array)[1]));
    }
    m_value.object = new object_t(std::move(members));
    m_type = value_t::object;
  } else {
    m_value.array = new array_t(items.begin(), items.end());
    m_type = value_t::array;
  }
}

// The installed comparisons with a text make a json of it first.
namespace nlohmann {
inline bool operator==(const json& value, const char* text) {
  const auto* held = value.get_ptr<const json::string_t*>();
  return held != nullptr && *held == text;
}
inline bool operator!=(const json& value, const char* text) { return !(value == text); }
}  // namespace nlohmann
