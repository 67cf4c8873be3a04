// Caching allocator of one device. Blocks that are freed are kept by size and handed out again, which is safe without
// synchronisation because everything that uses them is ordered on the context's one stream.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "core/error.h"

namespace matvlm {

struct MemoryStats {
  int64_t current = 0;   // bytes in live blocks
  int64_t peak = 0;      // largest `current` since the last reset_peak()
  int64_t reserved = 0;  // bytes taken from the device, cached blocks included
  int64_t limit = 0;     // 0 = none
};

// Thrown when the limit or the device is exhausted.
class OutOfMemory : public Error {
 public:
  using Error::Error;
};

class Allocator {
 public:
  virtual ~Allocator() = default;
  Allocator(const Allocator&) = delete;
  Allocator& operator=(const Allocator&) = delete;

  // At least `bytes` bytes, aligned to 256. OutOfMemory with the sizes when the limit or the device is exhausted, after
  // the cached blocks were given back and the attempt repeated.
  void* allocate(int64_t bytes);
  void deallocate(void* block) noexcept;

  MemoryStats stats() const;
  void reset_peak();
  void set_limit(int64_t bytes);  // reserved may not grow beyond it; 0 = no limit
  void release_cached();

 protected:
  Allocator() = default;
  // To be called by the destructor of the derived class, whose raw_free is still there then.
  void free_all() noexcept;
  virtual void* raw_allocate(int64_t bytes) = 0;  // nullptr when the device has no more
  virtual void raw_free(void* block) noexcept = 0;
  virtual const char* name() const = 0;

 private:
  // A cached block for `size` bytes, whose own size replaces it; nullptr when there is none.
  void* take_cached(int64_t& size);
  void give_back_cached();
  mutable std::mutex mutex_;
  std::map<int64_t, std::vector<void*>> cached_;
  std::map<void*, int64_t> live_;
  MemoryStats stats_;
};

std::shared_ptr<Allocator> make_cpu_allocator();

}  // namespace matvlm
