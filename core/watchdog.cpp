// The watchdog's thread.
#include "core/watchdog.h"

#include <algorithm>
#include <utility>

#include "core/error.h"

namespace matvlm {

Watchdog::Watchdog(Milliseconds timeout, std::function<std::string()> poll,
                   std::function<void(const std::string&)> on_failure)
    : timeout_(timeout),
      poll_(std::move(poll)),
      on_failure_(std::move(on_failure)),
      last_(std::chrono::steady_clock::now()),
      thread_([this] { run(); }) {}

Watchdog::~Watchdog() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    wake_.notify_all();
  }
  thread_.join();
}

void Watchdog::heartbeat() {
  const std::lock_guard lock(mutex_);
  last_ = std::chrono::steady_clock::now();
}

std::string Watchdog::failure() const {
  const auto silent = std::chrono::duration_cast<Milliseconds>(std::chrono::steady_clock::now() - last_);
  if (timeout_.count() > 0 && silent >= timeout_) {
    return cat("[watchdog] found no progress for ", static_cast<double>(silent.count()) / 1000.0,
               " s, expected some within ", static_cast<double>(timeout_.count()) / 1000.0, " s");
  }
  return "";
}

void Watchdog::run() {
  const Milliseconds second{1000};
  const Milliseconds interval = timeout_.count() > 0 ? std::clamp(timeout_ / 4, Milliseconds{1}, second) : second;
  std::unique_lock lock(mutex_);
  while (!wake_.wait_for(lock, interval, [this] { return stopping_; })) {
    std::string reason = failure();
    lock.unlock();  // poll and on_failure may give heartbeats
    if (reason.empty() && poll_) reason = poll_();
    if (!reason.empty()) return on_failure_(reason);
    lock.lock();
  }
}

}  // namespace matvlm
