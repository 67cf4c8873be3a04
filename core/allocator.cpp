// The caching part, shared by all devices, and the allocator of host memory.
#include "core/allocator.h"

#include <algorithm>
#include <cstdlib>
#include <utility>

namespace matvlm {
namespace {

constexpr int64_t kGranule = 512;

int64_t rounded(int64_t bytes) { return (std::max<int64_t>(bytes, 1) + kGranule - 1) / kGranule * kGranule; }

class CpuAllocator final : public Allocator {
 public:
  CpuAllocator() = default;
  ~CpuAllocator() override { free_all(); }

 protected:
  void* raw_allocate(int64_t bytes) override { return std::aligned_alloc(256, static_cast<size_t>(bytes)); }
  void raw_free(void* block) noexcept override { std::free(block); }
  const char* name() const override { return "cpu"; }
};

}  // namespace

// The smallest block that is large enough, unless more than an eighth of the request would lie idle: sizes that vary
// with the batch use each other's blocks, sizes that repeat find their own.
void* Allocator::take_cached(int64_t& size) {
  Blocks& cached = cached_[pool_];
  const auto found = cached.lower_bound(size);
  if (found == cached.end() || found->first > size + size / 8) return nullptr;
  size = found->first;
  void* block = found->second.back();
  found->second.pop_back();
  if (found->second.empty()) cached.erase(found);
  return block;
}

void* Allocator::take_new(int64_t size) {
  if (stats_.limit != 0 && stats_.reserved + size > stats_.limit) return nullptr;
  void* block = raw_allocate(size);
  if (block != nullptr) stats_.reserved += size;
  return block;
}

void* Allocator::allocate(int64_t bytes) {
  check(bytes >= 0, "[allocator] negative size ", bytes);
  int64_t size = rounded(bytes);
  std::unique_lock lock(mutex_);
  void* block = take_cached(size);
  if (block == nullptr) block = take_new(size);
  const auto give_back_and_take = [&] {
    give_back_cached();
    block = take_new(size);
  };
  if (block == nullptr) give_back_and_take();
  if (block == nullptr && reclaim_) {
    // Whoever gives memory up calls deallocate().
    const std::function<bool()> reclaim = reclaim_;
    lock.unlock();
    const bool again = reclaim();
    lock.lock();
    if (again) give_back_and_take();
  }
  if (block == nullptr) {
    throw OutOfMemory(cat("[allocator ", name(), "] out of memory: asked for ", size, " bytes, ", stats_.current,
                          " in use, limit ", stats_.limit == 0 ? "none" : cat(stats_.limit)));
  }
  live_[block] = {size, pool_};
  stats_.current += size;
  stats_.peak = std::max(stats_.peak, stats_.current);
  return block;
}

void Allocator::deallocate(void* block) noexcept {
  if (block == nullptr) return;
  const std::lock_guard lock(mutex_);
  const auto found = live_.find(block);
  if (found == live_.end()) return;
  cached_[found->second.pool][found->second.size].push_back(block);
  stats_.current -= found->second.size;
  live_.erase(found);
}

MemoryStats Allocator::stats() const {
  const std::lock_guard lock(mutex_);
  return stats_;
}

void Allocator::reset_peak() {
  const std::lock_guard lock(mutex_);
  stats_.peak = stats_.current;
}

void Allocator::set_limit(int64_t bytes) {
  const std::lock_guard lock(mutex_);
  stats_.limit = bytes;
}

void Allocator::release_cached() {
  const std::lock_guard lock(mutex_);
  give_back_cached();
}

Allocator::Keep Allocator::keep(Keep what) {
  const std::lock_guard lock(mutex_);
  return std::exchange(keep_, what);
}

void Allocator::set_reclaim(std::function<bool()> reclaim) {
  const std::lock_guard lock(mutex_);
  reclaim_ = std::move(reclaim);
}

Allocator::Pool Allocator::use(Pool pool) {
  const std::lock_guard lock(mutex_);
  return std::exchange(pool_, pool);
}

void Allocator::give_back_cached() {
  if (keep_ == Keep::everything) return;
  for (const Pool pool : {kGeneral, kStep, kAside}) {
    if (pool == kStep && keep_ == Keep::step_pool) continue;
    for (auto& [size, blocks] : cached_[pool]) {
      for (void* block : blocks) {
        raw_free(block);
        stats_.reserved -= size;
      }
    }
    cached_[pool].clear();
  }
}

void Allocator::free_all() noexcept {
  for (Blocks& cached : cached_) {
    for (auto& [size, blocks] : cached) {
      for (void* block : blocks) raw_free(block);
    }
    cached.clear();
  }
}

std::shared_ptr<Allocator> make_cpu_allocator() { return std::make_shared<CpuAllocator>(); }

}  // namespace matvlm
