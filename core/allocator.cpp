// The caching part, shared by all devices, and the allocator of host memory.
#include "core/allocator.h"

#include <algorithm>
#include <bit>
#include <cstdlib>

#include "core/error.h"

namespace matvlm {
namespace {

// Size classes in steps of an eighth of a power of two: at most 12.5 % is lost and blocks of similar sizes are reused.
int64_t size_class(int64_t bytes) {
  if (bytes <= 4096) return (std::max<int64_t>(bytes, 1) + 255) / 256 * 256;
  const auto floor_power = static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(bytes)));
  const int64_t step = std::max<int64_t>(floor_power / 8, 256);
  return (bytes + step - 1) / step * step;
}

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

void* Allocator::take_cached(int64_t size) {
  const auto found = cached_.find(size);
  if (found == cached_.end() || found->second.empty()) return nullptr;
  void* block = found->second.back();
  found->second.pop_back();
  return block;
}

void* Allocator::allocate(int64_t bytes) {
  check(bytes >= 0, "[allocator] negative size ", bytes);
  const int64_t size = size_class(bytes);
  const std::lock_guard lock(mutex_);
  void* block = take_cached(size);
  if (block == nullptr) {
    const auto fits = [&] { return stats_.limit == 0 || stats_.reserved + size <= stats_.limit; };
    if (fits()) block = raw_allocate(size);
    if (block == nullptr) {
      for (auto& [class_size, blocks] : cached_) {
        for (void* cached : blocks) {
          raw_free(cached);
          stats_.reserved -= class_size;
        }
        blocks.clear();
      }
      if (fits()) block = raw_allocate(size);
    }
    check(block != nullptr, "[allocator ", name(), "] out of memory: asked for ", size, " bytes, ", stats_.current,
          " in use, limit ", stats_.limit == 0 ? "none" : cat(stats_.limit));
    stats_.reserved += size;
  }
  live_[block] = size;
  stats_.current += size;
  stats_.peak = std::max(stats_.peak, stats_.current);
  return block;
}

void Allocator::deallocate(void* block) noexcept {
  if (block == nullptr) return;
  const std::lock_guard lock(mutex_);
  const auto found = live_.find(block);
  if (found == live_.end()) return;
  cached_[found->second].push_back(block);
  stats_.current -= found->second;
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
  for (auto& [size, blocks] : cached_) {
    for (void* block : blocks) {
      raw_free(block);
      stats_.reserved -= size;
    }
    blocks.clear();
  }
}

void Allocator::free_all() noexcept {
  for (auto& [size, blocks] : cached_) {
    for (void* block : blocks) raw_free(block);
  }
  cached_.clear();
}

std::shared_ptr<Allocator> make_cpu_allocator() { return std::make_shared<CpuAllocator>(); }

}  // namespace matvlm
