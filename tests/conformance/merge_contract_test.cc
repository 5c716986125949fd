// What every merge has to do, whatever it computes: its options, tiles, threads, repetition, equal models.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <random>
#include <thread>

#include "tests/conformance/heap.h"
#include "tests/conformance/option_checks.h"
#include "tests/conformance/program/settings.h"

namespace xh::test {
namespace {

using Tensor = std::vector<float>;

constexpr int64_t kSize = 997;  // no multiple of anything
constexpr float kGuard = -12345.0f;

Tensor RandomTensor(int64_t n, uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  Tensor tensor(static_cast<size_t>(n));
  for (float& value : tensor) value = normal(generator);
  return tensor;
}

bool Has(uint32_t trait) { return (MergeTable().traits & trait) != 0; }

struct Close {
  void operator()(xh_merge* merge) const { MergeTable().close(merge); }
};
using Merge = std::unique_ptr<xh_merge, Close>;

// A number of models and whether there is a base.
struct Shape {
  int32_t models;
  bool base;
};

// The tensors of one name in every model, and in the base.
struct Tensors {
  std::vector<Tensor> models;
  Tensor base;
  bool has_base;

  Tensors(Shape shape, uint32_t seed, int64_t n = kSize) : base(RandomTensor(n, seed + 77)), has_base(shape.base) {
    for (int32_t i = 0; i < shape.models; ++i) models.push_back(RandomTensor(n, seed + static_cast<uint32_t>(i)));
  }
  std::vector<const float*> At(int64_t first) const {
    std::vector<const float*> pointers;
    for (const Tensor& model : models) pointers.push_back(model.data() + first);
    return pointers;
  }
  const float* Base(int64_t first) const { return has_base ? base.data() + first : nullptr; }
  int64_t size() const { return static_cast<int64_t>(base.size()); }
};

Outcome OpenMerge(Shape shape, const xh_option* options, int64_t count, Merge* out) {
  xh_merge* merge = nullptr;
  const Outcome outcome = TakeError(MergeTable().open(options, count, shape.models, &merge));
  if (outcome.code == 0) out->reset(merge);
  return outcome;
}

// The question before any tensor is read: whether these models and this base go together.
Outcome Probe(const xh_merge* merge, Shape shape) {
  const Tensors empty(shape, 1, 0);
  Tensor models_data(1), out = {kGuard};
  std::vector<const float*> models(static_cast<size_t>(shape.models), models_data.data());
  const Outcome outcome = TakeError(
      MergeTable().combine(merge, "", models.data(), shape.base ? models_data.data() : nullptr, 0, 0, out.data()));
  EXPECT_EQ(out[0], kGuard) << "combine of no elements wrote one";
  return outcome;
}

// A merge with its defaults, for a shape that it takes.
Merge Opened(Shape shape) {
  const OptionValues options(OptionsOf(MergeTable().options_schema));
  Merge merge;
  const Outcome outcome = OpenMerge(shape, options.data(), options.size(), &merge);
  EXPECT_EQ(outcome.message, "");
  return merge;
}

std::vector<Shape> Shapes() {
  std::vector<Shape> shapes;
  const xh_merge_table& table = MergeTable();
  const int32_t most = table.max_models == 0 ? table.min_models + 3 : std::min(table.max_models, table.min_models + 3);
  const OptionValues options(OptionsOf(table.options_schema));
  for (int32_t models = table.min_models; models <= most; ++models) {
    for (bool base : {false, true}) {
      if (Has(XH_MERGE_NEEDS_BASE) && !base) continue;
      Merge merge;
      const Shape shape = {models, base};
      if (OpenMerge(shape, options.data(), options.size(), &merge).code != 0) continue;
      if (Probe(merge.get(), shape).code == 0) shapes.push_back(shape);
    }
  }
  return shapes;
}

void Observe(xh_merge* merge, const Tensors& tensors, const char* name = "t") {
  if (!Has(XH_MERGE_TWO_PASS)) return;
  const Outcome outcome =
      TakeError(MergeTable().observe(merge, name, tensors.At(0).data(), tensors.Base(0), tensors.size()));
  EXPECT_EQ(outcome.message, "");
}

// Elements [first, first + n) into `out`, which is the whole tensor.
void Combine(const xh_merge* merge, const Tensors& tensors, int64_t first, int64_t n, Tensor* out,
             const char* name = "t") {
  const Outcome outcome = TakeError(
      MergeTable().combine(merge, name, tensors.At(first).data(), tensors.Base(first), first, n, out->data() + first));
  EXPECT_EQ(outcome.message, "");
}

Tensor Whole(xh_merge* merge, const Tensors& tensors, const char* name = "t") {
  Observe(merge, tensors, name);
  Tensor out(static_cast<size_t>(tensors.size()), NAN);
  Combine(merge, tensors, 0, tensors.size(), &out, name);
  return out;
}

// Calls `check` for every shape that the merge takes.
template <class Check>
void ForEveryShape(Check check) {
  for (const Shape& shape : Shapes()) {
    SCOPED_TRACE(testing::Message() << shape.models << " models" << (shape.base ? " and a base" : ""));
    check(shape);
  }
}

// Equal to the bit; NaN nowhere.
void ExpectSame(const Tensor& out, const Tensor& expected, const std::string& what) {
  if (out != expected) ADD_FAILURE() << what << " changes the result";
}

Shape AnyShape() {
  const std::vector<Shape> shapes = Shapes();
  return shapes.empty() ? Shape{MergeTable().min_models, true} : shapes[0];
}

TEST(MergeOptions, AllowedValuesOpen) {
  const Shape shape = AnyShape();
  CheckAllowedOptions(OptionsOf(MergeTable().options_schema), [&](const xh_option* options, int64_t count) {
    Merge merge;
    return OpenMerge(shape, options, count, &merge);
  });
}

TEST(MergeOptions, HostileValuesAreTakenOrNamed) {
  const Shape shape = AnyShape();
  const Tensors tensors(shape, 3, 50);
  CheckHostileOptions(OptionsOf(MergeTable().options_schema), [&](const xh_option* options, int64_t count) {
    Merge merge;
    const Outcome outcome = OpenMerge(shape, options, count, &merge);
    if (outcome.code == 0) Whole(merge.get(), tensors);  // what was taken has to work
    return outcome;
  });
}

TEST(MergeModels, SomeNumberOfModelsIsTaken) { EXPECT_FALSE(Shapes().empty()) << "no number of models is taken"; }

TEST(MergeTiles, AnySplitGivesTheSameBits) {
  if (!Has(XH_MERGE_ELEMENTWISE)) return;
  ForEveryShape([](Shape shape) {
    const Tensors tensors(shape, 1);
    const Merge merge = Opened(shape);
    const Tensor expected = Whole(merge.get(), tensors);
    for (int64_t tile : {1, 7, 64, 500}) {
      Tensor out(static_cast<size_t>(kSize), NAN);
      // From the end to the beginning: no tile may lean on the one before it.
      for (int64_t first = (kSize - 1) / tile * tile; first >= 0; first -= tile) {
        Combine(merge.get(), tensors, first, std::min(tile, kSize - first), &out);
      }
      ExpectSame(out, expected, "a tile of " + std::to_string(tile) + " elements");
    }
  });
}

TEST(MergeTiles, ThreadsGiveTheSameBits) {
  if (!Has(XH_MERGE_ELEMENTWISE)) return;
  ForEveryShape([](Shape shape) {
    const Tensors tensors(shape, 2, 40000);
    const Merge merge = Opened(shape);
    const Tensor expected = Whole(merge.get(), tensors);
    Tensor out(expected.size(), NAN);
    std::vector<std::thread> threads;
    for (int64_t part = 0; part < 4; ++part) {
      threads.emplace_back([&, part] {
        for (int64_t first = part * 10000; first < (part + 1) * 10000; first += 500) {
          Combine(merge.get(), tensors, first, 500, &out);
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    ExpectSame(out, expected, "the number of threads");
  });
}

TEST(MergeTiles, WriteTheirElementsAndNothingElse) {
  ForEveryShape([](Shape shape) {
    const Tensors tensors(shape, 3), before = tensors;
    const Merge merge = Opened(shape);
    Observe(merge.get(), tensors);
    const int64_t first = Has(XH_MERGE_ELEMENTWISE) ? 100 : 0, n = Has(XH_MERGE_ELEMENTWISE) ? 333 : kSize;
    Tensor out(static_cast<size_t>(n) + 2, kGuard);
    EXPECT_EQ(TakeError(MergeTable().combine(merge.get(), "t", tensors.At(first).data(), tensors.Base(first), first, n,
                                             out.data() + 1))
                  .message,
              "");
    EXPECT_EQ(out.front(), kGuard) << "wrote before its elements";
    EXPECT_EQ(out.back(), kGuard) << "wrote past its elements";
    EXPECT_EQ(tensors.models, before.models) << "changed a model";
    EXPECT_EQ(tensors.base, before.base) << "changed the base";
  });
}

// Tensors come one after the other, and one file after the other: nothing of an earlier one may be left.
TEST(MergeRepeats, NothingIsLeftOfEarlierTensors) {
  ForEveryShape([](Shape shape) {
    const Tensors a(shape, 1), b(shape, 11, 400), c(shape, 21, 1);
    const Merge one = Opened(shape), fresh = Opened(shape), other = Opened(shape);
    const Tensor first = Whole(one.get(), a, "a");
    Whole(one.get(), b, "b");
    Whole(one.get(), c, "c");
    ExpectSame(Whole(one.get(), a, "a"), first, "an earlier tensor");
    ExpectSame(Whole(fresh.get(), b, "b"), Whole(one.get(), b, "b"), "an earlier tensor");
    ExpectSame(Whole(other.get(), a, "a"), first, "another merge");
  });
}

// Models that are all the same, and the base too, give that model: 1e-6 for a rounding or two in f32.
TEST(MergeIdentity, EqualModelsGiveTheModel) {
  ForEveryShape([](Shape shape) {
    Tensors tensors(shape, 5);
    std::fill(tensors.models.begin(), tensors.models.end(), tensors.base);
    const Merge merge = Opened(shape);
    const Tensor out = Whole(merge.get(), tensors);
    double worst = 0.0;
    for (size_t i = 0; i < out.size(); ++i) {
      worst = std::max(worst, std::fabs(static_cast<double>(out[i]) - tensors.base[i]));
    }
    EXPECT_LE(worst, 1e-6) << "equal models give another model";
  });
}

TEST(MergeNumbers, NanStaysInItsElement) {
  if (!Has(XH_MERGE_ELEMENTWISE) || Has(XH_MERGE_TWO_PASS)) return;
  ForEveryShape([](Shape shape) {
    Tensors tensors(shape, 6);
    const Merge merge = Opened(shape);
    Tensor expected = Whole(merge.get(), tensors);
    tensors.models[0][500] = NAN;
    Tensor out = Whole(merge.get(), tensors);
    out[500] = expected[500] = 0.0f;
    ExpectSame(out, expected, "a NaN in another element");
  });
}

TEST(MergeMemory, OpenAndCloseGiveItBack) {
  const Shape shape = AnyShape();
  const Tensors tensors(shape, 3, 50);
  ExpectNoLeak("open, combine and close", [&] {
    const Merge merge = Opened(shape);
    Whole(merge.get(), tensors);
  });
  ExpectNoLeak("refusals of open", [&] {
    Merge merge;
    OptionValues options(OptionsOf(MergeTable().options_schema));
    options.SetText("no such option", "\xff");
    OpenMerge(shape, options.data(), options.size(), &merge);
  });
}

}  // namespace
}  // namespace xh::test
