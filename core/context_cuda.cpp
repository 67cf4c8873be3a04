// CUDA context: stream, cuBLASLt and cuDNN handles, the device allocator and the way of host values into its memory.
#include <cublasLt.h>

#include <algorithm>
#include <cstring>
#include <unordered_map>
#include <utility>
#include <vector>

#include "core/allocator.h"
#include "core/cuda_context.h"
#include "core/dnn_graph.h"
#include "core/gpu_upload.h"

namespace matvlm {
namespace {

// Pinned memory that uploads pass through, so that neither they nor the host wait for the stream: the values are copied
// here, the device fetches them when the stream comes to it. A ring of segments, each free again once the stream has
// passed what was sent from it. Memory and events are there from the first upload on.
//
// Many bytes would hold the stream up on their way over the bus. They travel on a stream of their own, as soon as they
// are here, into a second ring, on the device, from which the stream fetches them in its turn.
class UploadRing {
 public:
  static constexpr int64_t kSegmentBytes = 4 << 20;

  // allocator: of the second ring, until give_back(). Two segments at least.
  UploadRing(Allocator& allocator, int64_t segments) : allocator_(allocator), passed_(static_cast<size_t>(segments)) {}
  ~UploadRing() {
    for (cudaEvent_t event : passed_) {
      if (event != nullptr) cudaEventDestroy(event);
    }
    if (arrived_ != nullptr) cudaEventDestroy(arrived_);
    if (aside_ != nullptr) cudaStreamDestroy(aside_);
    if (memory_ != nullptr) cudaFreeHost(memory_);
  }
  void give_back() noexcept { allocator_.deallocate(std::exchange(on_device_, nullptr)); }
  UploadRing(const UploadRing&) = delete;
  UploadRing& operator=(const UploadRing&) = delete;

  void copy(void* dst, const void* host, int64_t bytes, cudaStream_t stream) {
    if (memory_ == nullptr) create();
    const bool aside = bytes >= kLeastUploadAside;
    if (aside && on_device_ == nullptr) create_aside(stream);
    auto* to = static_cast<char*>(dst);
    const auto* from = static_cast<const char*>(host);
    while (bytes > 0) {
      if (used_ >= kSegmentBytes) next(stream);
      const int64_t n = std::min(bytes, kSegmentBytes - used_);
      const int64_t place = segment_ * kSegmentBytes + used_;
      std::memcpy(memory_ + place, from, static_cast<size_t>(n));
      if (aside) {
        // That part of the second ring is free: the host has waited for its segment.
        send(on_device_ + place, memory_ + place, n, aside_);
        MATVLM_CUDA_CHECK(cudaEventRecord(arrived_, aside_));
        MATVLM_CUDA_CHECK(cudaStreamWaitEvent(stream, arrived_, 0));
      }
      send(to, (aside ? on_device_ : memory_) + place, n, stream);
      used_ += (n + kAlignment - 1) / kAlignment * kAlignment;
      to += n;
      from += n;
      bytes -= n;
    }
  }

 private:
  static constexpr int64_t kAlignment = 64;

  int64_t bytes() const { return static_cast<int64_t>(passed_.size()) * kSegmentBytes; }
  static void send(void* to, const void* from, int64_t bytes, cudaStream_t stream) {
    MATVLM_CUDA_CHECK(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDefault, stream));
  }

  void create() {
    for (cudaEvent_t& event : passed_) {
      MATVLM_CUDA_CHECK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    }
    void* memory = nullptr;
    MATVLM_CUDA_CHECK(cudaHostAlloc(&memory, static_cast<size_t>(bytes()), cudaHostAllocDefault));
    memory_ = static_cast<char*>(memory);
  }
  void create_aside(cudaStream_t stream) {
    if (arrived_ == nullptr) MATVLM_CUDA_CHECK(cudaEventCreateWithFlags(&arrived_, cudaEventDisableTiming));
    if (aside_ == nullptr) MATVLM_CUDA_CHECK(cudaStreamCreateWithFlags(&aside_, cudaStreamNonBlocking));
    auto* const block = static_cast<char*>(allocator_.allocate(bytes()));
    // What had the block before may still be in use by work of the stream.
    MATVLM_CUDA_CHECK(cudaEventRecord(arrived_, stream));
    MATVLM_CUDA_CHECK(cudaStreamWaitEvent(aside_, arrived_, 0));
    on_device_ = block;
  }
  void next(cudaStream_t stream) {
    MATVLM_CUDA_CHECK(cudaEventRecord(passed_[static_cast<size_t>(segment_)], stream));
    segment_ = (segment_ + 1) % static_cast<int64_t>(passed_.size());
    used_ = 0;
    // Returns at once for a segment that was never sent.
    MATVLM_CUDA_CHECK(cudaEventSynchronize(passed_[static_cast<size_t>(segment_)]));
  }

  Allocator& allocator_;
  char* memory_ = nullptr;
  char* on_device_ = nullptr;
  cudaStream_t aside_ = nullptr;
  cudaEvent_t arrived_ = nullptr;
  std::vector<cudaEvent_t> passed_;  // of each segment
  int64_t segment_ = 0;
  int64_t used_ = 0;  // bytes of the segment
};

class CudaAllocator final : public Allocator {
 public:
  explicit CudaAllocator(int index) : index_(index) {}
  ~CudaAllocator() override {
    uploads_.give_back();
    uploads_aside_.give_back();
    free_all();
  }
  // A ring belongs to one stream, whose progress says which of its segments are free.
  UploadRing& uploads(bool aside) { return aside ? uploads_aside_ : uploads_; }

 protected:
  void* raw_allocate(int64_t bytes) override {
    void* block = nullptr;
    if (cudaMalloc(&block, static_cast<size_t>(bytes)) == cudaSuccess) return block;
    cudaGetLastError();  // an exhausted device is reported by the caller, the sticky error must not outlive it
    return nullptr;
  }
  void raw_free(void* block) noexcept override { cudaFree(block); }
  const char* name() const override { return "cuda"; }

 private:
  int index_;
  UploadRing uploads_{*this, kGpuUploadBytes / UploadRing::kSegmentBytes};
  UploadRing uploads_aside_{*this, 2};
};

// Pinned host memory under the same addresses on the device. It is mapped into the device of the thread that allocates.
class PinnedAllocator final : public Allocator {
 public:
  PinnedAllocator() = default;
  ~PinnedAllocator() override { free_all(); }

 protected:
  void* raw_allocate(int64_t bytes) override {
    void* block = nullptr;
    if (cudaHostAlloc(&block, static_cast<size_t>(bytes), cudaHostAllocMapped) == cudaSuccess) return block;
    cudaGetLastError();
    return nullptr;
  }
  void raw_free(void* block) noexcept override { cudaFreeHost(block); }
  const char* name() const override { return "pinned host memory"; }
};

// The device must be current before the allocator or any member touches CUDA.
std::shared_ptr<Allocator> select_device(int index) {
  const int count = cuda_device_count();
  check(index >= 0 && index < count, "[cuda] device ", index, " was asked for, ", count, " found");
  MATVLM_CUDA_CHECK(cudaSetDevice(index));
  return std::make_shared<CudaAllocator>(index);
}

}  // namespace

int cuda_device_count() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) {
    cudaGetLastError();
    return 0;
  }
  return count;
}

cudaStream_t make_stream(StreamPriority priority) {
  int lowest = 0, highest = 0;  // which is the smaller number
  MATVLM_CUDA_CHECK(cudaDeviceGetStreamPriorityRange(&lowest, &highest));
  cudaStream_t stream = nullptr;
  MATVLM_CUDA_CHECK(cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking,
                                                 priority == StreamPriority::first ? highest : lowest));
  return stream;
}

struct KernelFacts {
  std::unordered_map<const void*, int64_t> resident_blocks;
  std::unordered_map<const void*, int> registers;
};

std::unique_ptr<Context> make_cuda_context(int index) { return std::make_unique<CudaContext>(index); }

CudaContext::CudaContext(int index)
    : Context(Device{DeviceType::cuda, index}, select_device(index)), kernel_facts_(std::make_shared<KernelFacts>()) {
  main_ = make_stream(StreamPriority::first);
  aside_ = make_stream(StreamPriority::last);
  for (cudaEvent_t* event : {&main_reached_, &aside_reached_}) {
    MATVLM_CUDA_CHECK(cudaEventCreateWithFlags(event, cudaEventDisableTiming));
  }
  stream_ = main_;
  check(cublasLtCreate(&blas_) == CUBLAS_STATUS_SUCCESS, "[cuda] cublasLtCreate failed");
  workspace_ = allocator()->allocate(kWorkspaceBytes);
  host_ = std::make_shared<PinnedAllocator>();
  work_counters_ = static_cast<unsigned*>(allocator()->allocate(2 * sizeof(unsigned)));
  MATVLM_CUDA_CHECK(cudaMemsetAsync(work_counters_, 0, 2 * sizeof(unsigned), stream_));
  cudaDeviceProp properties{};
  MATVLM_CUDA_CHECK(cudaGetDeviceProperties(&properties, index));
  name_ = properties.name;
  multiprocessors_ = properties.multiProcessorCount;
  compute_capability_ = properties.major * 10 + properties.minor;
  max_shared_memory_ = static_cast<int>(properties.sharedMemPerBlockOptin);
}

CudaContext::~CudaContext() {
  cudaStreamSynchronize(aside_);
  cudaStreamSynchronize(main_);
  destroy_dnn_handle(dnn_);
  cublasLtDestroy(blas_);
  allocator()->deallocate(workspace_);
  allocator()->deallocate(work_counters_);
  for (cudaEvent_t event : {main_reached_, aside_reached_}) cudaEventDestroy(event);
  for (cudaStream_t stream : {main_, aside_}) cudaStreamDestroy(stream);
}

void CudaContext::begin_aside(bool behind_all) {
  check(!recording && !aside(), "[cuda] aside work begins ", recording ? "while work is recorded" : "aside");
  if (behind_all) {
    MATVLM_CUDA_CHECK(cudaEventRecord(main_reached_, main_));
    MATVLM_CUDA_CHECK(cudaStreamWaitEvent(aside_, main_reached_, 0));
  }
  stream_ = aside_;
}

void CudaContext::end_aside() noexcept { stream_ = main_; }

void CudaContext::join_aside() {
  check(!recording && !aside(), "[cuda] aside work is waited for ", recording ? "while work is recorded" : "aside");
  MATVLM_CUDA_CHECK(cudaEventRecord(aside_reached_, aside_));
  MATVLM_CUDA_CHECK(cudaStreamWaitEvent(main_, aside_reached_, 0));
}

void CudaContext::synchronize() {
  check(!recording, "[cuda] the host waits for the device while work is recorded");
  MATVLM_CUDA_CHECK(cudaStreamSynchronize(stream_));
}

void CudaContext::fill_bytes(void* dst, int value, int64_t bytes) {
  if (bytes > 0) MATVLM_CUDA_CHECK(cudaMemsetAsync(dst, value, static_cast<size_t>(bytes), stream_));
}

// The kind of a copy follows from its addresses: a tensor of this device may lie in host memory (host_allocator).
void CudaContext::copy_2d(void* dst, int64_t dst_pitch, const void* src, int64_t src_pitch, int64_t width,
                          int64_t height) {
  if (width == 0 || height == 0) return;
  if (dst_pitch == width && src_pitch == width) {
    MATVLM_CUDA_CHECK(cudaMemcpyAsync(dst, src, static_cast<size_t>(width * height), cudaMemcpyDefault, stream_));
    return;
  }
  MATVLM_CUDA_CHECK(cudaMemcpy2DAsync(dst, static_cast<size_t>(dst_pitch), src, static_cast<size_t>(src_pitch),
                                      static_cast<size_t>(width), static_cast<size_t>(height), cudaMemcpyDefault,
                                      stream_));
}

void CudaContext::to_device(void* dst, const void* host, int64_t bytes) {
  if (bytes <= 0) return;
  check(!recording, "[cuda] host values are sent while work is recorded");
  static_cast<CudaAllocator&>(*allocator()).uploads(aside()).copy(dst, host, bytes, stream_);
}

void CudaContext::to_host(void* host, const void* src, int64_t bytes) {
  if (bytes <= 0) return;
  check(!recording, "[cuda] the host waits for the device while work is recorded");
  MATVLM_CUDA_CHECK(cudaMemcpyAsync(host, src, static_cast<size_t>(bytes), cudaMemcpyDefault, stream_));
  synchronize();
}

int64_t CudaContext::resident_blocks(const void* kernel, int threads) {
  const auto [found, is_new] = kernel_facts_->resident_blocks.try_emplace(kernel, 0);
  if (is_new) {
    int blocks = 0;
    MATVLM_CUDA_CHECK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, threads, 0));
    check(blocks > 0, "[cuda] a kernel of ", threads, " threads does not fit a multiprocessor");
    found->second = static_cast<int64_t>(blocks) * multiprocessors_;
  }
  return found->second;
}

int CudaContext::kernel_registers(const void* kernel) {
  const auto [found, is_new] = kernel_facts_->registers.try_emplace(kernel, 0);
  if (is_new) {
    cudaFuncAttributes attributes{};
    MATVLM_CUDA_CHECK(cudaFuncGetAttributes(&attributes, kernel));
    found->second = attributes.numRegs;
  }
  return found->second;
}

std::string CudaContext::description() const {
  return cat(name_, ", compute capability ", compute_capability_ / 10, ".", compute_capability_ % 10, ", ",
             multiprocessors_, " multiprocessors");
}

cudnnContext* CudaContext::dnn() {
  if (dnn_ == nullptr) dnn_ = make_dnn_handle(main_);
  return dnn_;
}

}  // namespace matvlm
