// Watchdog: a thread that calls a function once when the program stops giving signs of life, or when a background
// failure is reported. The function usually aborts all ranks: a rank that hangs in a collective cannot do so itself.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

namespace matvlm {

class Watchdog {
 public:
  using Milliseconds = std::chrono::milliseconds;

  // `poll` is asked about four times per timeout, at least once a second, and returns "" or a failure
  // (Comm::async_error); may be empty. `on_failure` gets the reason; it runs on the watchdog's thread, at most once. A
  // timeout of 0 means that only `poll` counts. The time until the first heartbeat() counts from construction.
  Watchdog(Milliseconds timeout, std::function<std::string()> poll, std::function<void(const std::string&)> on_failure);
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  // From any thread.
  void heartbeat();

 private:
  void run();
  std::string failure() const;  // with the lock held

  const Milliseconds timeout_;
  const std::function<std::string()> poll_;
  const std::function<void(const std::string&)> on_failure_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::chrono::steady_clock::time_point last_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace matvlm
