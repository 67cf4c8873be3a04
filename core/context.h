// One device with its stream, handles and allocator. launch/ (or a test) owns it, ops receive it: nothing global.
// All work on a context is ordered; host code that reads results calls synchronize() or uses a copy that does.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

namespace matvlm {

class Allocator;  // core/allocator.h

enum class DeviceType { cpu, cuda };

struct Device {
  DeviceType type = DeviceType::cpu;
  int index = 0;
  bool operator==(const Device&) const = default;
};

std::string device_name(const Device& device);  // "cpu", "cuda:0"

class CudaContext;  // core/cuda_context.h, for CUDA sources only

// Scratch that every GPU context keeps for the libraries.
inline constexpr int64_t kGpuWorkspaceBytes = 64LL << 20;

class Context {
 public:
  virtual ~Context() = default;
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  const Device& device() const { return device_; }
  bool on_gpu() const { return device_.type == DeviceType::cuda; }
  // False on a context that only counts memory (make_counting_context); raw ops ask through core/dispatch.h.
  virtual bool computes() const { return true; }
  const std::shared_ptr<Allocator>& allocator() const { return allocator_; }

  virtual void synchronize() = 0;
  // Ordered on the stream. Pitches, width in bytes.
  virtual void fill_bytes(void* dst, int value, int64_t bytes) = 0;
  virtual void copy_2d(void* dst, int64_t dst_pitch, const void* src, int64_t src_pitch, int64_t width,
                       int64_t height) = 0;
  // Host <-> device. Both return when the host memory may be reused or read.
  virtual void to_device(void* dst, const void* host, int64_t bytes) = 0;
  virtual void to_host(void* host, const void* src, int64_t bytes) = 0;
  // For Aside (core/aside.h), except the last: what is issued from there on comes behind all that was issued aside.
  virtual void begin_aside(bool behind_all) { (void)behind_all; }
  virtual void end_aside() noexcept {}
  virtual void join_aside() {}
  // Human-readable name of the device ("NVIDIA H100 80GB HBM3"; the CPU's thread count).
  virtual std::string description() const = 0;
  virtual CudaContext* cuda() { return nullptr; }
  // The cudaStream_t that orders the work issued now, for interfaces that take it as an opaque pointer; null on the
  // CPU.
  virtual void* stream_handle() { return nullptr; }
  // Of host memory that the device reads and writes like its own, only slower; allocator() itself on the CPU.
  virtual const std::shared_ptr<Allocator>& host_allocator() { return allocator_; }

 protected:
  Context(Device device, std::shared_ptr<Allocator> allocator) : device_(device), allocator_(std::move(allocator)) {}

 private:
  Device device_;
  std::shared_ptr<Allocator> allocator_;
};

// threads <= 0: as many as OpenMP would take. Sets OpenMP's and OpenBLAS's thread counts for this process.
std::unique_ptr<Context> make_cpu_context(int threads = 0);
// Error where the build has no CUDA, no such device exists or the driver is too old. (context_cuda.cpp /
// context_no_cuda.cpp)
std::unique_ptr<Context> make_cuda_context(int index);
// A context that takes itself for a device of type `like` and does nothing: memory has addresses that must not be
// followed, everything read from it is 0, and the allocator's counters say what the same work takes there, but for
// scratch that CUDA sources take on their own.
std::unique_ptr<Context> make_counting_context(DeviceType like);
int cuda_device_count();  // 0 without CUDA, driver or device; never throws

}  // namespace matvlm
