// A context without a device behind it: everything is allocated as usual, nothing is stored or computed. What runs on
// it says how much memory the same run needs, and shapes and order of the allocations come from the code itself.
#include <cstring>

#include "core/allocator.h"
#include "core/context.h"
#include "core/gpu_upload.h"

namespace matvlm {
namespace {

// Addresses that nobody may follow, each handed out once.
class CountingAllocator final : public Allocator {
 public:
  CountingAllocator() = default;
  ~CountingAllocator() override { free_all(); }

 protected:
  void* raw_allocate(int64_t bytes) override {
    next_ += static_cast<uintptr_t>(bytes);
    return reinterpret_cast<void*>(next_ - static_cast<uintptr_t>(bytes));  // NOLINT(performance-no-int-to-ptr)
  }
  void raw_free(void*) noexcept override {}
  const char* name() const override { return "counting"; }

 private:
  uintptr_t next_ = 1 << 20;  // a multiple of every alignment, and not null
};

class CountingContext final : public Context {
 public:
  explicit CountingContext(DeviceType like) : Context(Device{like, 0}, std::make_shared<CountingAllocator>()) {
    if (on_gpu()) workspace_ = allocator()->allocate(kGpuWorkspaceBytes);
  }
  ~CountingContext() override {
    allocator()->deallocate(workspace_);
    allocator()->deallocate(uploads_);
  }

  bool computes() const override { return false; }
  void synchronize() override {}
  void fill_bytes(void*, int, int64_t) override {}
  void copy_2d(void*, int64_t, const void*, int64_t, int64_t, int64_t) override {}
  void to_device(void*, const void*, int64_t bytes) override {
    if (on_gpu() && bytes >= kLeastUploadAside && uploads_ == nullptr) {
      uploads_ = allocator()->allocate(kGpuUploadBytes);
    }
  }
  void to_host(void* host, const void*, int64_t bytes) override {
    if (bytes > 0) std::memset(host, 0, static_cast<size_t>(bytes));
  }
  std::string description() const override { return "memory counter"; }
  const std::shared_ptr<Allocator>& host_allocator() override { return on_gpu() ? host_ : allocator(); }

 private:
  void* workspace_ = nullptr;
  void* uploads_ = nullptr;
  std::shared_ptr<Allocator> host_ = std::make_shared<CountingAllocator>();
};

}  // namespace

std::unique_ptr<Context> make_counting_context(DeviceType like) { return std::make_unique<CountingContext>(like); }

}  // namespace matvlm
