// Tables of memory-bound ops: time, bytes a second and share of the copy.
#pragma once

#include <cstdio>
#include <string>
#include <utility>

#include "tests/bench/timing.cuh"

namespace matvlm::bench {

inline Tensor random(Context& ctx, Shape shape, DType dtype, double scale = 1.0) {
  Tensor t = Tensor::empty(ctx, std::move(shape), dtype);
  fill_random(ctx, t, scale);
  return t;
}

struct BandwidthTable {
  Context& ctx;
  double copy_gb_s;
  int op_width, shape_width;  // characters of the first two columns

  // run(i) uses buffer set i.
  template <class F>
  void report(const char* op, const std::string& shape, DType dtype, int64_t bytes, int sets, F&& run) const {
    const double ms = median_ms(ctx, sets, run);
    const double gb_s = static_cast<double>(bytes) / ms * 1e-6;
    std::printf("%-*s %-*s %-5s %9.4f %9.1f %8.0f %6.1f %%\n", op_width, op, shape_width, shape.c_str(),
                std::string(dtype_name(dtype)).c_str(), ms, static_cast<double>(bytes) * 1e-6, gb_s,
                100 * gb_s / copy_gb_s);
    std::fflush(stdout);
  }
};

}  // namespace matvlm::bench
