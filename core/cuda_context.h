// The CUDA side of a context, for .cu and *_cuda.cpp files only: stream, handles, error checks, launch checks.
#pragma once

#include <cuda_runtime.h>

#include "core/context.h"
#include "core/error.h"

struct cublasLtContext;
struct cudnnContext;

namespace matvlm {

#define MATVLM_CUDA_CHECK(call)                                                                                     \
  do {                                                                                                              \
    const cudaError_t matvlm_error = (call);                                                                        \
    if (matvlm_error != cudaSuccess)                                                                                \
      ::matvlm::fail("[cuda] ", #call, ": ", cudaGetErrorString(matvlm_error), " (", __FILE__, ":", __LINE__, ")"); \
  } while (0)

// After a kernel launch: catches bad launch configurations at the place where they happen.
#define MATVLM_LAUNCH_CHECK() MATVLM_CUDA_CHECK(cudaGetLastError())

// Of work that goes first, or of work that takes what the first leaves.
enum class StreamPriority { first, last };
cudaStream_t make_stream(StreamPriority priority);  // context_cuda.cpp

struct GemmPlans;
struct Fp8GemmPlans;
struct KernelFacts;

class CudaContext final : public Context {
 public:
  explicit CudaContext(int index);
  ~CudaContext() override;

  void synchronize() override;  // aside: for what was issued there
  void fill_bytes(void* dst, int value, int64_t bytes) override;
  void copy_2d(void* dst, int64_t dst_pitch, const void* src, int64_t src_pitch, int64_t width,
               int64_t height) override;
  void to_device(void* dst, const void* host, int64_t bytes) override;
  void to_host(void* host, const void* src, int64_t bytes) override;
  std::string description() const override;
  CudaContext* cuda() override { return this; }
  const std::shared_ptr<Allocator>& host_allocator() override { return host_; }
  void* stream_handle() override { return stream_; }
  void begin_aside(bool behind_all) override;
  void end_aside() noexcept override;
  void join_aside() override;

  cudaStream_t stream() const { return stream_; }
  cublasLtContext* blas() const { return blas_; }
  cudnnContext* dnn();  // created at first use; its stream is that of work that is not aside
  void* workspace() const {
    check(!aside(), "[cuda] a library's workspace is used aside");
    return workspace_;
  }
  static constexpr int64_t kWorkspaceBytes = kGpuWorkspaceBytes;  // for cuBLASLt and cuDNN
  // Two counters for kernels whose blocks take work from a list, [0] items handed out and [1] blocks that are done.
  // They are 0 between kernels: the last block of a kernel has to leave them so.
  unsigned* work_counters() const {
    check(!aside(), "[cuda] work counters are used aside");
    return work_counters_;
  }
  int multiprocessors() const { return multiprocessors_; }
  int compute_capability() const { return compute_capability_; }  // 90 for 9.0
  int max_shared_memory() const { return max_shared_memory_; }    // bytes a block may opt in to
  // What the driver says of a kernel (a __global__ function) on this device. It is asked once for each: an answer takes
  // longer than a launch. Blocks of `threads` threads, always the same for a kernel, without dynamic shared memory,
  // that run at the same time on the whole device; registers a thread.
  int64_t resident_blocks(const void* kernel, int threads);
  int kernel_registers(const void* kernel);
  bool allow_tf32 = false;                       // float32 products in tf32: off unless asked for
  bool recording = false;                        // of record_work(): the stream only takes notes
  std::shared_ptr<GemmPlans> gemm_plans;         // cache of gemm_cuda.cpp
  std::shared_ptr<Fp8GemmPlans> fp8_gemm_plans;  // cache of gemm_fp8_cuda.cpp

 private:
  bool aside() const { return stream_ == aside_; }

  cudaStream_t stream_ = nullptr;  // where work is issued now: main_ or aside_
  cudaStream_t main_ = nullptr;
  cudaStream_t aside_ = nullptr;
  cudaEvent_t main_reached_ = nullptr, aside_reached_ = nullptr;
  cublasLtContext* blas_ = nullptr;
  cudnnContext* dnn_ = nullptr;
  void* workspace_ = nullptr;
  unsigned* work_counters_ = nullptr;
  int multiprocessors_ = 0;
  int compute_capability_ = 0;
  int max_shared_memory_ = 0;
  std::string name_;
  std::shared_ptr<KernelFacts> kernel_facts_;  // answers of the driver so far
  std::shared_ptr<Allocator> host_;
};

// Stream of a context that is known to be on a GPU.
inline cudaStream_t cuda_stream(Context& ctx) { return ctx.cuda()->stream(); }

}  // namespace matvlm
