// The CPU context.
#include "core/context.h"

#include <omp.h>

#include <cstring>

#include "core/allocator.h"
#include "core/error.h"
#include "core/gemm.h"

namespace matvlm {
namespace {

class CpuContext final : public Context {
 public:
  explicit CpuContext(int threads) : Context(Device{}, make_cpu_allocator()) {
    if (threads > 0) omp_set_num_threads(threads);
    set_blas_threads(omp_get_max_threads());
  }
  void synchronize() override {}
  void fill_bytes(void* dst, int value, int64_t bytes) override {
    if (bytes > 0) std::memset(dst, value, static_cast<size_t>(bytes));
  }
  void copy_2d(void* dst, int64_t dst_pitch, const void* src, int64_t src_pitch, int64_t width,
               int64_t height) override {
    if (width == 0 || height == 0) return;
    if (dst_pitch == width && src_pitch == width) {
      std::memmove(dst, src, static_cast<size_t>(width * height));
      return;
    }
    for (int64_t i = 0; i < height; ++i) {
      std::memmove(static_cast<char*>(dst) + i * dst_pitch, static_cast<const char*>(src) + i * src_pitch,
                   static_cast<size_t>(width));
    }
  }
  void to_device(void* dst, const void* host, int64_t bytes) override {
    if (bytes > 0) std::memcpy(dst, host, static_cast<size_t>(bytes));
  }
  void to_host(void* host, const void* src, int64_t bytes) override {
    if (bytes > 0) std::memcpy(host, src, static_cast<size_t>(bytes));
  }
  std::string description() const override { return cat("CPU, ", omp_get_max_threads(), " threads"); }
};

}  // namespace

std::string device_name(const Device& device) {
  return device.type == DeviceType::cpu ? "cpu" : cat("cuda:", device.index);
}

std::unique_ptr<Context> make_cpu_context(int threads) { return std::make_unique<CpuContext>(threads); }

}  // namespace matvlm
