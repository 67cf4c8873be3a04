// Two pinned buffers and a stream of their own: while one is copied the other is filled.
#include <array>

#include "core/cuda_context.h"
#include "core/tensor_upload.h"

namespace matvlm {
namespace {

class CudaUploadLane final : public UploadLane {
 public:
  CudaUploadLane(int device, int64_t bytes) : bytes_(bytes) {
    MATVLM_CUDA_CHECK(cudaSetDevice(device));  // of this thread
    try {
      MATVLM_CUDA_CHECK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
      for (Slot& slot : slots_) {
        MATVLM_CUDA_CHECK(cudaHostAlloc(&slot.memory, static_cast<size_t>(bytes), cudaHostAllocDefault));
        MATVLM_CUDA_CHECK(cudaEventCreateWithFlags(&slot.copied, cudaEventDisableTiming));
      }
    } catch (...) {
      release();
      throw;
    }
  }
  ~CudaUploadLane() override { release(); }
  CudaUploadLane(const CudaUploadLane&) = delete;
  CudaUploadLane& operator=(const CudaUploadLane&) = delete;

  std::byte* buffer(void* /*destination*/, int64_t bytes) override {
    check(bytes <= bytes_, "[upload] found a piece of ", bytes, " bytes, expected at most ", bytes_);
    current_ = 1 - current_;
    MATVLM_CUDA_CHECK(cudaEventSynchronize(slots_[current_].copied));  // at once for an event never recorded
    return static_cast<std::byte*>(slots_[current_].memory);
  }

  void send(void* destination, int64_t bytes) override {
    const Slot& slot = slots_[current_];
    MATVLM_CUDA_CHECK(
        cudaMemcpyAsync(destination, slot.memory, static_cast<size_t>(bytes), cudaMemcpyHostToDevice, stream_));
    MATVLM_CUDA_CHECK(cudaEventRecord(slot.copied, stream_));
  }

  void finish() override { MATVLM_CUDA_CHECK(cudaStreamSynchronize(stream_)); }

 private:
  struct Slot {
    void* memory = nullptr;
    cudaEvent_t copied = nullptr;
  };

  void release() {
    if (stream_ != nullptr) {
      cudaStreamSynchronize(stream_);
      cudaStreamDestroy(stream_);
    }
    for (Slot& slot : slots_) {
      if (slot.copied != nullptr) cudaEventDestroy(slot.copied);
      if (slot.memory != nullptr) cudaFreeHost(slot.memory);
    }
  }

  int64_t bytes_;
  cudaStream_t stream_ = nullptr;
  std::array<Slot, 2> slots_;
  size_t current_ = 0;
};

}  // namespace

std::unique_ptr<UploadLane> make_cuda_upload_lane(Context& ctx, int64_t bytes) {
  return std::make_unique<CudaUploadLane>(ctx.device().index, bytes);
}

}  // namespace matvlm
