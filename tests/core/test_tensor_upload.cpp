// Tensors from files on the device: the same values as by way of float vectors, in every storage type, with pieces that
// do not divide the tensors and any number of threads; what is no number or does not fit is named.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "core/safetensors.h"
#include "core/tensor_upload.h"
#include "tests/support/errors.h"
#include "tests/support/temp_dir.h"

namespace matvlm::testing {
namespace {

std::vector<float> values_of(int64_t count, int64_t seed) {
  std::vector<float> values(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) {
    values[static_cast<size_t>(i)] = std::sin(static_cast<float>(i * 7 + seed)) * 3.0F;
  }
  return values;
}

struct Stored {
  std::string name;
  DType dtype;
  std::vector<int64_t> shape;
};

// The second one is larger than a block of conversion (32768).
const std::vector<Stored> kStored = {{"f32", DType::f32, {33, 31}},     {"large", DType::f32, {3, 14000}},
                                     {"f16", DType::f16, {50, 40}},     {"f64", DType::f64, {77}},
                                     {"bf16", DType::bf16, {41, 1000}}, {"one", DType::bf16, {1}},
                                     {"none", DType::f32, {0, 4}}};

void write_example(const std::string& path) {
  std::vector<TensorSpec> specs;
  for (const Stored& s : kStored) specs.push_back({s.name, s.dtype, s.shape});
  SafetensorsWriter writer(path, specs);
  for (const TensorSpec& spec : writer.order()) {
    writer.append_floats(spec.name, values_of(shape_numel(spec.shape), std::ssize(spec.name)));
  }
  writer.commit();
}

void expect_uploaded(Context& ctx, DType dtype, const UploadOptions& options) {
  const TempDir dir;
  write_example(dir.file("x.safetensors"));
  const TensorSource source = TensorSource::open(dir.file("x.safetensors"));
  std::vector<UploadItem> items;
  // In one tensor, as rows of joined weights are: what stands around an item must not change.
  for (const Stored& s : kStored) {
    const int64_t numel = shape_numel(s.shape);
    const Tensor joined =
        Tensor::from_floats(ctx, std::vector<float>(static_cast<size_t>(numel + 2), 7.0F), {numel + 2, 1}, dtype);
    items.push_back({joined.slice_rows(1, numel + 1), s.name});
  }
  upload_tensors(ctx, source, items, options);
  for (const UploadItem& item : items) {
    const std::vector<float> floats = source.read_floats(item.name);
    const Tensor expected = Tensor::from_floats(ctx, floats, {std::ssize(floats), 1}, dtype);
    EXPECT_EQ(item.destination.to_floats(ctx), expected.to_floats(ctx)) << item.name;
  }
}

void expect_bounds_kept(Context& ctx, DType dtype) {
  const TempDir dir;
  write_example(dir.file("x.safetensors"));
  const TensorSource source = TensorSource::open(dir.file("x.safetensors"));
  const Tensor joined = Tensor::from_floats(ctx, std::vector<float>(2002, 7.0F), {2002, 1}, dtype);
  upload_into(ctx, joined.slice_rows(1, 2001), source, "f16");
  const std::vector<float> all = joined.to_floats(ctx);
  EXPECT_EQ(all.front(), 7.0F);
  EXPECT_EQ(all.back(), 7.0F);
  EXPECT_EQ(all[2], Tensor::from_floats(ctx, source.read_floats("f16"), {2000, 1}, dtype).to_floats(ctx)[1]);
}

void expect_all(Context& ctx) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    expect_uploaded(ctx, dtype, {});
    expect_uploaded(ctx, dtype, {.threads = 1, .piece_bytes = 8});
    expect_uploaded(ctx, dtype, {.threads = 3, .piece_bytes = 4099});
    expect_uploaded(ctx, dtype, {.threads = 40, .piece_bytes = 65536});
    expect_bounds_kept(ctx, dtype);
  }
}

TEST(TensorUpload, ValuesAreThoseOfTheFile) { expect_all(*make_cpu_context(2)); }

TEST(TensorUploadCuda, ValuesAreThoseOfTheFile) {
  const auto ctx = make_cuda_context(0);
  expect_all(*ctx);
}

TEST(TensorUpload, TheFirstValueThatIsNoNumberIsNamed) {
  const TempDir dir;
  const std::string path = dir.file("x.safetensors");
  std::vector<float> bad = values_of(100000, 1);
  bad[70001] = std::numeric_limits<float>::infinity();
  bad[90000] = std::numeric_limits<float>::quiet_NaN();
  SafetensorsWriter writer(path, {{"a", DType::f32, {100000}}, {"b", DType::bf16, {100000}}});
  writer.append_floats("a", bad);
  writer.append_floats("b", bad);
  writer.commit();
  const auto ctx = make_cpu_context(2);
  const TensorSource source = TensorSource::open(path);
  const Tensor a = Tensor::empty(*ctx, {100000}, DType::f32);
  const Tensor b = Tensor::empty(*ctx, {100000}, DType::f32);
  const auto message = [&](const std::string& name) {
    return path + ": '" + name + "': found inf at element 70001, expected finite numbers";
  };
  for (int repeat = 0; repeat < 20; ++repeat) {  // whichever thread comes first
    const UploadOptions options{.threads = 4, .piece_bytes = 8000};
    EXPECT_EQ(error_of([&] { upload_tensors(*ctx, source, {{a, "a"}, {b, "b"}}, options); }), message("a"));
    EXPECT_EQ(error_of([&] { upload_tensors(*ctx, source, {{b, "b"}, {a, "a"}}, options); }), message("b"));
  }
}

TEST(TensorUpload, WhatDoesNotFitIsNamed) {
  const TempDir dir;
  const std::string path = dir.file("x.safetensors");
  SafetensorsWriter writer(path, {{"n", DType::i32, {4}}, {"f", DType::f32, {4, 2}}});
  for (const TensorSpec& spec : writer.order()) {
    if (spec.name == "f") writer.append_floats("f", values_of(8, 0));
    if (spec.name == "n") writer.append_values<int32_t>("n", std::vector<int32_t>{1, 2, 3, 4});
  }
  writer.commit();
  const auto ctx = make_cpu_context(1);
  const TensorSource source = TensorSource::open(path);
  const Tensor four = Tensor::empty(*ctx, {4}, DType::f32);
  const Tensor table = Tensor::empty(*ctx, {4, 4}, DType::f32);
  EXPECT_EQ(error_of([&] { upload_into(*ctx, four, source, "n"); }),
            path + ": tensor 'n': found dtype I32, expected F32, BF16, F16 or F64");
  EXPECT_EQ(error_of([&] { upload_into(*ctx, four, source, "f"); }),
            path + ": tensor 'f': found 8 elements, expected 4");
  EXPECT_EQ(error_of([&] { upload_into(*ctx, table.slice_cols(1, 3), source, "f"); }),
            "[upload] found a destination of f32, expected contiguous f32 or bf16");
  EXPECT_EQ(error_of([&] { upload_into(*ctx, four, source, "g"); }), path + ": found no tensor 'g', expected it");
}

}  // namespace
}  // namespace matvlm::testing
