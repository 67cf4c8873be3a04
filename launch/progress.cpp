#include "launch/progress.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "core/error.h"
#include "core/log.h"
#include "launch/metrics.h"

namespace matvlm {
namespace {

constexpr int64_t kBarWidth = 30;
constexpr std::chrono::milliseconds kBarEvery{500};
constexpr std::chrono::seconds kLineEvery{10};

std::string fixed(const char* format, double value) {
  char text[64];
  std::snprintf(text, sizeof(text), format, value);
  return text;
}

}  // namespace

ProgressText::ProgressText(bool terminal, Clock::time_point start)
    : terminal_(terminal), start_(start), next_(terminal ? start : start + kLineEvery) {}

void ProgressText::start_phase(const PackProgress& progress, Clock::time_point now) {
  if (first_.total_bytes > 0) start_ = now;
  first_ = progress;
}

std::string ProgressText::at(const PackProgress& progress, Clock::time_point now) {
  if (progress.total_bytes <= 0) return "";
  if (first_.total_bytes == 0 || first_.phase != progress.phase) start_phase(progress, now);
  if (now < next_) return "";
  next_ = now + (terminal_ ? Clock::duration(kBarEvery) : Clock::duration(kLineEvery));
  const double done = static_cast<double>(progress.bytes) / static_cast<double>(progress.total_bytes);
  const double seconds = std::max(std::chrono::duration<double>(now - start_).count(), 0.5);
  const double bytes_a_second = static_cast<double>(progress.bytes - first_.bytes) / seconds;
  const double left = static_cast<double>(progress.total_bytes - progress.bytes) / bytes_a_second;  // may be infinite
  const auto samples = static_cast<double>(progress.samples - first_.samples);
  std::string text = terminal_ ? cat(progress.phase, " ", progress_bar(done, kBarWidth))
                               : cat(progress.phase, ": ", fixed("%.1f", 100 * done), " %");
  text += cat("  ", progress.samples, " samples");
  if (samples > 0) text += cat("  ", fixed("%.0f", samples / seconds), " samples/s");
  return text + "  " + fixed("%.0f", bytes_a_second / 1e6) + " MB/s  " + duration_text(left) + " left";
}

ProgressDisplay::ProgressDisplay()
    : terminal_(::isatty(STDERR_FILENO) == 1), text_(terminal_, ProgressText::Clock::now()) {}

void ProgressDisplay::show(const PackProgress& progress) {
  const std::string text = text_.at(progress, ProgressText::Clock::now());
  if (text.empty()) return;
  if (terminal_) {
    std::fputs(("\r" + text + " \033[K").c_str(), stderr);
  } else {
    log_info(text);
  }
}

void ProgressDisplay::clear() const {
  if (terminal_) std::fputs("\r\033[K", stderr);
}

}  // namespace matvlm
