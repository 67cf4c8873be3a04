// Caching allocator of one device. Blocks that are freed are kept by size and handed out again, which is safe without
// synchronisation because everything that uses a pool's blocks is ordered on one stream.
//
// There are three pools that never exchange blocks. All but what lives within a step comes from the general one. A
// step's own memory is in the step pool (StepMemory): recorded work writes there whenever it is launched, so nothing
// that outlives a step may lie in it but what its owner puts there on purpose. Work beside a context's own takes from
// the third (core/aside.h).
#pragma once

#include <array>
#include <cstdint>
#include <functional>
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
  void release_cached();          // but for what keep() says

  // Cached blocks that stay with the allocator, because recorded work knows their addresses. Returns what was set.
  enum class Keep { nothing, step_pool, everything };
  Keep keep(Keep what);
  // Called when neither cached blocks nor the device have enough, by the thread that allocates: it may give up memory,
  // and returns whether there is any point in another attempt. Empty: nobody to ask.
  void set_reclaim(std::function<bool()> reclaim);

 protected:
  Allocator() = default;
  // To be called by the destructor of the derived class, whose raw_free is still there then.
  void free_all() noexcept;
  virtual void* raw_allocate(int64_t bytes) = 0;  // nullptr when the device has no more
  virtual void raw_free(void* block) noexcept = 0;
  virtual const char* name() const = 0;

 private:
  friend class StepMemory;
  friend class Aside;
  enum Pool : size_t { kGeneral, kStep, kAside, kPools };
  struct Live {
    int64_t size;
    Pool pool;
  };
  using Blocks = std::map<int64_t, std::vector<void*>>;
  Pool use(Pool pool);  // returns the one used so far
  // A cached block for `size` bytes, whose own size replaces it; nullptr when there is none.
  void* take_cached(int64_t& size);
  // From the device; nullptr when that has no more or the limit does not allow it.
  void* take_new(int64_t size);
  void give_back_cached();
  mutable std::mutex mutex_;
  std::array<Blocks, kPools> cached_;
  std::map<void*, Live> live_;
  MemoryStats stats_;
  Pool pool_ = kGeneral;
  Keep keep_ = Keep::nothing;
  std::function<bool()> reclaim_;
};

// While it lives, what is allocated comes from the step pool; it goes back there, whenever it is freed. For the one
// thread that runs steps.
class StepMemory {
 public:
  explicit StepMemory(Allocator& allocator) : allocator_(allocator), before_(allocator.use(Allocator::kStep)) {}
  ~StepMemory() { allocator_.use(before_); }
  StepMemory(const StepMemory&) = delete;
  StepMemory& operator=(const StepMemory&) = delete;

 private:
  Allocator& allocator_;
  Allocator::Pool before_;
};

std::shared_ptr<Allocator> make_cpu_allocator();

}  // namespace matvlm
