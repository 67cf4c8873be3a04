// Marks as CUDA events, made once and used again.
#include "core/cuda_context.h"
#include "core/device_clock.h"

namespace matvlm {
namespace {

class CudaClock final : public DeviceClock {
 public:
  explicit CudaClock(Context& ctx) : stream_(cuda_stream(ctx)) {}
  ~CudaClock() override {
    for (const cudaEvent_t event : events_) cudaEventDestroy(event);
  }
  void mark() override {
    if (used_ == events_.size()) {
      cudaEvent_t event = nullptr;
      MATVLM_CUDA_CHECK(cudaEventCreate(&event));
      events_.push_back(event);
    }
    MATVLM_CUDA_CHECK(cudaEventRecord(events_[used_], stream_));
    ++used_;
  }
  std::vector<double> read() override {
    std::vector<double> out;
    if (used_ > 0) MATVLM_CUDA_CHECK(cudaEventSynchronize(events_[used_ - 1]));
    for (size_t i = 0; i < used_; ++i) {
      float ms = 0;
      MATVLM_CUDA_CHECK(cudaEventElapsedTime(&ms, events_.front(), events_[i]));
      out.push_back(static_cast<double>(ms));
    }
    used_ = 0;
    return out;
  }

 private:
  cudaStream_t stream_;
  std::vector<cudaEvent_t> events_;
  size_t used_ = 0;  // of events_, since the last read
};

}  // namespace

std::unique_ptr<DeviceClock> make_cuda_clock(Context& ctx) { return std::make_unique<CudaClock>(ctx); }

}  // namespace matvlm
