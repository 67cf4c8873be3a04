// metrics.jsonl, step lines and the progress bar.
#include "launch/metrics.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string_view>
#include <system_error>

#include "core/error.h"
#include "core/file.h"
#include "core/log.h"

namespace matvlm {
namespace {

constexpr int64_t kBarWidth = 40;

// mpirun gives its ranks a pipe for stderr; the scripts of launch/ then say whether its other end is a terminal.
bool stderr_is_terminal() {
  const char* told = std::getenv("MATVLM_TERMINAL");
  return ::isatty(STDERR_FILENO) == 1 || (told != nullptr && std::string_view(told) == "1");
}

std::string reason() { return std::generic_category().message(errno); }

std::string formatted(const char* format, double value) {
  char text[64];
  std::snprintf(text, sizeof(text), format, value);
  return text;
}

// Bytes of the leading lines whose step is at most `last_step`, for events `last_event`. Steps rise through the file,
// and the events of a step follow its line.
int64_t bytes_to_keep(const std::string& path, const std::string& text, int64_t last_step, int64_t last_event) {
  size_t begin = 0;
  for (int64_t number = 1; begin < text.size(); ++number) {
    const size_t end = text.find('\n', begin);
    if (end == std::string::npos) break;  // the program was killed in the middle of this line
    const Json line = Json::parse(text.substr(begin, end - begin), cat(path, ":", number));
    if (line.at("step").as_int() > (line.has("event") ? last_event : last_step)) break;
    begin = end + 1;
  }
  return static_cast<int64_t>(begin);
}

}  // namespace

std::string duration_text(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0 || seconds > 1e9) return "?";
  const auto whole = static_cast<int64_t>(std::llround(seconds));
  char text[64];
  if (whole >= 3600) {
    std::snprintf(text, sizeof(text), "%ldh %02ldm", static_cast<long>(whole / 3600),
                  static_cast<long>(whole / 60 % 60));
  } else if (whole >= 60) {
    std::snprintf(text, sizeof(text), "%ldm %02lds", static_cast<long>(whole / 60), static_cast<long>(whole % 60));
  } else {
    std::snprintf(text, sizeof(text), "%lds", static_cast<long>(whole));
  }
  return text;
}

std::string memory_text(int64_t bytes) {
  const double mib = static_cast<double>(bytes) / (1 << 20);
  return mib >= 1024 ? formatted("%.1f GiB", mib / 1024) : formatted("%.0f MiB", mib);
}

std::string step_line(const StepMetrics& metrics) {
  std::string text = cat("step ", metrics.step, "  samples ", metrics.samples);
  for (const auto& [name, value] : metrics.losses) text += "  " + name + " " + formatted("%.5g", value);
  text += "  grad " + formatted("%.3g", metrics.grad_norm) + "  lr " + formatted("%.3g", metrics.lr);
  text += "  " + formatted("%.0f", metrics.tokens_per_second) + " tokens/s  mem " + memory_text(metrics.memory_bytes);
  text += "  wait " + formatted("%.0f", 100 * metrics.data_wait) + " %  ETA " + duration_text(metrics.eta_seconds);
  return text;
}

std::string progress_bar(double fraction, int64_t width) {
  const double clamped = std::clamp(std::isfinite(fraction) ? fraction : 0.0, 0.0, 1.0);
  const auto full = static_cast<size_t>(std::floor(clamped * static_cast<double>(width)));
  return cat('[', std::string(full, '#'), std::string(static_cast<size_t>(width) - full, '.'), "] ",
             formatted("%3.0f", std::floor(100 * clamped)), " %");
}

MetricsLog::MetricsLog(const std::string& path, int64_t last_step, int64_t last_event, int64_t total_samples)
    : path_(path), total_samples_(total_samples), terminal_(stderr_is_terminal()) {
  struct stat status {};
  const bool exists = ::stat(path.c_str(), &status) == 0;
  const int64_t keep = exists ? bytes_to_keep(path, read_file(path), last_step, last_event) : 0;
  descriptor_ = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  check(descriptor_ >= 0, path, ": cannot open: ", reason());
  if (::ftruncate(descriptor_, keep) == 0) return;
  const std::string why = reason();
  ::close(descriptor_);
  fail(path, ": cannot shorten to the lines of the checkpoint: ", why);
}

MetricsLog::~MetricsLog() {
  if (terminal_) std::fputs("\033[K", stderr);  // the bar ends with the cursor at its start
  ::close(descriptor_);
}

void MetricsLog::append(const Json& line) {
  const std::string text = line.dump() + "\n";
  size_t done = 0;
  while (done < text.size()) {
    const ssize_t n = ::write(descriptor_, text.data() + done, text.size() - done);
    if (n < 0 && errno == EINTR) continue;
    check(n > 0, path_, ": cannot write: ", reason());
    done += static_cast<size_t>(n);
  }
}

void MetricsLog::step(const StepMetrics& metrics) {
  Json losses = Json::object();
  for (const auto& [name, value] : metrics.losses) losses.set(name, value);
  Json line = Json::object();
  line.set("step", metrics.step).set("samples", metrics.samples).set("loss", losses);
  line.set("grad_norm", metrics.grad_norm).set("lr", metrics.lr).set("tokens_per_second", metrics.tokens_per_second);
  line.set("memory_bytes", metrics.memory_bytes).set("data_wait", metrics.data_wait);
  line.set("comm_wait_ms", metrics.comm_wait_ms);
  line.set("eta_seconds", metrics.eta_seconds);
  append(line);
  log_info(step_line(metrics));
  if (!terminal_ || total_samples_ <= 0) return;
  // Ends at the start of its line, so that the next log line, always longer, overwrites it.
  const double fraction = static_cast<double>(metrics.samples) / static_cast<double>(total_samples_);
  std::fputs((progress_bar(fraction, kBarWidth) + "\r").c_str(), stderr);
  std::fflush(stderr);
}

void MetricsLog::event(const std::string& event, int64_t step,
                       const std::vector<std::pair<std::string, double>>& values) {
  Json line = Json::object();
  line.set("event", event).set("step", step);
  for (const auto& [name, value] : values) line.set(name, value);
  append(line);
}

}  // namespace matvlm
