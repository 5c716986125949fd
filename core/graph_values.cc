// Values of a graph: leaves, and views that show a part of one or another shape.
#include "core/checkpoint/dtype.h"
#include "core/graph_parts.h"

namespace xh {
namespace {

Shape ContiguousStride(const Shape& shape) {
  Shape stride(shape.size());
  int64_t step = 1;
  for (size_t i = shape.size(); i-- > 0;) {
    stride[i] = step;
    step *= shape[i];
  }
  return stride;
}

}  // namespace

int32_t Graph::AddStorage(int64_t bytes, void* external) {
  storages_.push_back({bytes, external, INT64_MAX, -1, 0, false});
  return static_cast<int32_t>(storages_.size()) - 1;
}

Value Graph::AddTensor(xh_dtype dtype, const Shape& shape, int32_t storage) {
  int32_t id = static_cast<int32_t>(values_.size());
  if (shape.size() > XH_MAX_RANK) Fail(Internal("a graph value has rank ", shape.size(), "; at most ", XH_MAX_RANK));
  values_.push_back({dtype, shape, ContiguousStride(shape), storage, 0, id, false, nullptr, false});
  return {id};
}

Value Graph::AddView(Value base, const Shape& shape, const Shape& stride, int64_t offset) {
  ValueInfo info = values_[base.id];
  info.shape = shape;
  info.stride = stride;
  info.offset += offset;
  values_.push_back(std::move(info));
  return {static_cast<int32_t>(values_.size()) - 1};
}

Value Graph::Input(xh_dtype dtype, const Shape& shape) {
  int32_t storage = AddStorage(ElementCount(shape) * DTypeBytes(dtype), nullptr);
  storages_[storage].pinned = true;
  return AddTensor(dtype, shape, storage);
}

Value Graph::Constant(std::vector<float> values, const Shape& shape) {
  Value value = Input(XH_F32, shape);
  constants_.emplace_back(value, std::move(values));
  return value;
}

Value Graph::External(void* data, xh_dtype dtype, const Shape& shape) {
  std::string key;
  AppendKey(&key, data);
  AppendKey(&key, dtype);
  for (int64_t extent : shape) AppendKey(&key, extent);
  auto found = externals_.find(key);
  if (found != externals_.end()) return found->second;
  Value value = AddTensor(dtype, shape, AddStorage(ElementCount(shape) * DTypeBytes(dtype), data));
  externals_[key] = value;
  return value;
}

Value Graph::Parameter(void* data, xh_dtype dtype, const Shape& shape, float* gradient) {
  Value value = External(data, dtype, shape);
  ValueInfo& info = values_[value.id];
  if (info.gradient != nullptr && info.gradient != gradient) {
    Fail(Internal("a parameter was declared with two gradients"));
  }
  info.gradient = gradient;
  info.requires_gradient = gradient != nullptr;
  return value;
}

// Strides of extents of 1 do not matter.
bool Graph::IsContiguous(Value value) const {
  const ValueInfo& info = values_[value.id];
  int64_t step = 1;
  for (size_t i = info.shape.size(); i-- > 0; step *= info.shape[i]) {
    if (info.shape[i] != 1 && info.stride[i] != step) return false;
  }
  return true;
}

Value Graph::View(Value value, const Shape& shape, const Shape& strides) {
  if (!value.valid()) return value;
  if (!IsContiguous(value) || ElementCount(shape) != size(value)) {
    Fail(Internal("a view must cover a contiguous value of the same size"));
    return value;
  }
  return AddView(value, shape, strides.empty() ? ContiguousStride(shape) : strides, 0);
}

Value Graph::SplitHeads(Value rows, int64_t batch, int64_t tokens, int64_t heads, bool scalar) {
  const ValueInfo info = values_[rows.id];
  const bool is_matrix = info.shape.size() == 2 && info.shape[0] == batch * tokens && info.stride[1] == 1;
  const int64_t width = size(rows) / (batch * tokens * heads);
  const int64_t row = is_matrix && info.shape[0] > 1 ? info.stride[0] : heads * width;
  if ((!is_matrix && !IsContiguous(rows)) || width * batch * tokens * heads != size(rows) || (scalar && width != 1)) {
    Fail(Internal("rows of ", heads, " heads for ", batch, " x ", tokens, " tokens were expected"));
    return rows;
  }
  if (scalar) return AddView(rows, {batch, heads, tokens}, {tokens * row, 1, row}, 0);
  return AddView(rows, {batch, heads, tokens, width}, {tokens * row, width, row, 1}, 0);
}

Value Graph::MergeHeads(Value heads) {
  const ValueInfo info = values_[heads.id];
  const size_t rank = info.shape.size();
  const bool has_heads = rank == 3 || rank == 4;
  const int64_t width = rank == 4 ? info.shape[3] : 1;
  Shape expected;
  if (has_heads) expected = {info.shape[2] * info.shape[1] * width, width, info.shape[1] * width, 1};
  // Strides of extents of 1 do not matter.
  for (size_t i = 0; i < rank; ++i) {
    if (!has_heads || (info.shape[i] != 1 && info.stride[i] != expected[i])) {
      Fail(Internal("only token-major heads [B,H,T,d] or [B,H,T] can be merged"));
      return heads;
    }
  }
  Shape rows = {info.shape[0] * info.shape[2], info.shape[1] * width};
  return AddView(heads, rows, ContiguousStride(rows), 0);
}

Value Graph::TokensFirst(Value heads, int64_t sequences) {
  const ValueInfo info = values_[heads.id];
  const Shape &shape = info.shape, &stride = info.stride;
  const bool whole = shape.size() == 4 && sequences == shape[0];
  const bool single =
      shape.size() == 4 && sequences == shape[0] * shape[2] && (shape[0] == 1 || stride[0] == shape[2] * stride[2]);
  if (!whole && !single) {
    Fail(Internal("heads [B,H,T,d] cannot be seen as ", sequences, " sequences of tokens"));
    return heads;
  }
  if (whole) return AddView(heads, {shape[0], shape[2], shape[1], shape[3]}, {stride[0], stride[2], stride[1], 1}, 0);
  return AddView(heads, {sequences, 1, shape[1], shape[3]}, {stride[2], stride[2], stride[1], 1}, 0);
}

Value Graph::Columns(Value value, int64_t first, int64_t count) {
  const ValueInfo info = values_[value.id];
  if (!IsContiguous(value) || info.shape.size() != 2 || first < 0 || count < 1 || first + count > info.shape[1]) {
    Fail(Internal("columns ", first, " to ", first + count, " are not columns of a contiguous matrix"));
    return value;
  }
  return AddView(value, {info.shape[0], count}, {info.shape[1], 1}, first);
}

Value Graph::Joined(const std::vector<Value>& parts) {
  for (Value part : parts) {
    if (!part.valid() || RequiresGradient(part)) return kAbsent;
  }
  Value joined = JoinedConstants(parts);
  return joined.valid() ? joined : JoinedColumns(parts);
}

Value Graph::JoinedConstants(const std::vector<Value>& parts) {
  const ValueInfo first = values_[parts[0].id];
  char* const begin = static_cast<char*>(storages_[first.storage].external);
  Shape shape = first.shape;
  shape[0] = 0;
  const char* end = begin;
  for (Value part : parts) {
    const ValueInfo& info = values_[part.id];
    Shape like_first = info.shape;
    like_first[0] = first.shape[0];
    const void* const data = storages_[info.storage].external;
    if (data == nullptr || data != end || info.root != part.id) return kAbsent;
    if (info.dtype != first.dtype || like_first != first.shape) return kAbsent;
    end += size(part) * DTypeBytes(info.dtype);
    shape[0] += info.shape[0];
  }
  return External(begin, first.dtype, shape);
}

Value Graph::JoinedColumns(const std::vector<Value>& parts) {
  const ValueInfo first = values_[parts[0].id];
  int64_t columns = 0;
  for (Value part : parts) {
    const ValueInfo& info = values_[part.id];
    if (info.root != first.root || info.shape.size() != 2 || info.shape[0] != first.shape[0]) return kAbsent;
    if (info.stride != first.stride || info.offset != first.offset + columns) return kAbsent;
    columns += info.shape[1];
  }
  return AddView(parts[0], {first.shape[0], columns}, first.stride, 0);
}

Value Graph::Rows(Value value, int64_t first, int64_t count) {
  const ValueInfo info = values_[value.id];
  if (!IsContiguous(value) || info.shape.size() != 2 || first < 0 || count < 1 || first + count > info.shape[0]) {
    Fail(Internal("rows ", first, " to ", first + count, " are not rows of a contiguous matrix"));
    return value;
  }
  return AddView(value, {count, info.shape[1]}, info.stride, first * info.shape[1]);
}

Value Graph::AddOutput(const OutputType& type) {
  if (type.dtype == 0) return kAbsent;
  int32_t storage = AddStorage(ElementCount(type.shape) * DTypeBytes(type.dtype), nullptr);
  if (!type.token_major) return AddTensor(type.dtype, type.shape, storage);
  Shape held = type.shape;  // [B,H,T,...] is held as [B,T,H,...]
  std::swap(held[1], held[2]);
  Value root = AddTensor(type.dtype, held, storage);
  Shape stride = values_[root.id].stride;
  std::swap(stride[1], stride[2]);
  return AddView(root, type.shape, stride, 0);
}

const Shape& Graph::shape(Value value) const { return values_[value.id].shape; }
xh_dtype Graph::dtype(Value value) const { return values_[value.id].dtype; }
int64_t Graph::size(Value value) const { return ElementCount(values_[value.id].shape); }

bool Graph::RequiresGradient(Value value) const {
  return value.valid() && values_[values_[value.id].root].requires_gradient;
}

}  // namespace xh
