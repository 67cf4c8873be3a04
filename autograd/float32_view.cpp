#include "autograd/float32_view.h"

#include <algorithm>
#include <utility>

#include "autograd/split_float.h"

namespace matvlm {
namespace {

constexpr int64_t kUpBits = Float32View::kUpBits;

int64_t up_bytes(int64_t n) { return (n + kUpBits - 1) / kUpBits; }

void join(std::span<float> values, const bf16* high, const int16_t* low, const uint8_t* up) {
  const auto n = static_cast<int64_t>(values.size());
#pragma omp parallel for if (n > 16384)
  for (int64_t i = 0; i < n; ++i) {
    const bool went_up = (up[i / kUpBits] >> (i % kUpBits) & 1) != 0;
    values[static_cast<size_t>(i)] = join_float({high[i].bits, static_cast<uint16_t>(low[i]), went_up});
  }
}

void split(std::span<const float> values, bf16* high, int16_t* low, uint8_t* up) {
  const auto n = static_cast<int64_t>(values.size());
#pragma omp parallel for if (n > 16384)
  for (int64_t byte = 0; byte < up_bytes(n); ++byte) {
    unsigned bits = 0;
    for (int64_t i = byte * kUpBits; i < std::min(n, (byte + 1) * kUpBits); ++i) {
      const SplitFloat s = split_float(values[static_cast<size_t>(i)]);
      high[i].bits = s.high;
      low[i] = static_cast<int16_t>(s.low);
      bits |= (s.up ? 1U : 0U) << (i % kUpBits);
    }
    up[byte] = static_cast<uint8_t>(bits);
  }
}

}  // namespace

Float32View::Float32View(Tensor whole) : whole_(std::move(whole)) {
  check_dtype("float32 values", "whole", whole_, DType::f32);
}

Float32View::Float32View(Tensor high, Tensor low, Tensor up)
    : high_(std::move(high)), low_(std::move(low)), up_(std::move(up)) {
  check_dtype("float32 values", "high", high_, DType::bf16);
  check_dtype("float32 values", "low", low_, DType::i16);
  check_dtype("float32 values", "up", up_, DType::u8);
  check_shape("float32 values", "low", low_, high_.shape());
  check_shape("float32 values", "up", up_, {up_bytes(high_.numel())});
}

Float32View Float32View::slice(int64_t begin, int64_t end, const Shape& shape) const {
  const auto part = [&](const Tensor& t) { return t.slice_rows(begin, end).reshape(shape); };
  if (!split()) return part(whole_);
  check(begin % kUpBits == 0, "[float32 values] view from element ", begin, ", expected a multiple of ", kUpBits);
  return {part(high_), part(low_), up_.slice_rows(begin / kUpBits, up_bytes(end))};
}

std::vector<float> Float32View::to_floats(Context& ctx) const {
  if (!split()) return whole_.to_floats(ctx);
  std::vector<float> values(static_cast<size_t>(numel()));
  join(values, high_.to_vector<bf16>(ctx).data(), low_.to_vector<int16_t>(ctx).data(),
       up_.to_vector<uint8_t>(ctx).data());
  return values;
}

void Float32View::copy_from_floats(Context& ctx, std::span<const float> values) const {
  if (!split()) {
    whole_.copy_from_floats(ctx, values);
    return;
  }
  check(static_cast<int64_t>(values.size()) == numel(), "[float32 values] found ", values.size(), " values for shape ",
        shape_string(shape()));
  std::vector<bf16> high(values.size());
  std::vector<int16_t> low(values.size());
  std::vector<uint8_t> up(static_cast<size_t>(up_.numel()));
  matvlm::split(values, high.data(), low.data(), up.data());
  ctx.to_device(high_.raw(), high.data(), high_.numel() * dtype_size(DType::bf16));
  ctx.to_device(low_.raw(), low.data(), low_.numel() * dtype_size(DType::i16));
  ctx.to_device(up_.raw(), up.data(), up_.numel());
}

void Float32View::read_cpu(int64_t begin, std::span<float> values) const {
  join(values, high_.data<bf16>() + begin, low_.data<int16_t>() + begin, up_.data<uint8_t>() + begin / kUpBits);
}

void Float32View::write_cpu(int64_t begin, std::span<const float> values) const {
  matvlm::split(values, high_.data<bf16>() + begin, low_.data<int16_t>() + begin,
                up_.data<uint8_t>() + begin / kUpBits);
}

}  // namespace matvlm
