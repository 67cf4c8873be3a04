// What a person and a plot see of a run: metrics.jsonl (one JSON object a line), one log line a step, and a progress
// bar where stderr is a terminal. Rank 0 owns one; the other ranks own none.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "core/json.h"

namespace matvlm {

// One logged update. Rates and fractions cover the time since the line before.
struct StepMetrics {
  int64_t step = 0;                                    // updates done
  int64_t samples = 0;                                 // samples learnt from, over all ranks
  std::vector<std::pair<std::string, double>> losses;  // "total" first, then its terms, in the order to print
  double grad_norm = 0;                                // before clipping
  double lr = 0;
  double tokens_per_second = 0;  // positions of the student, over all ranks
  int64_t memory_bytes = 0;      // peak of the device's allocator on this rank
  double data_wait = 0;          // fraction of the time spent waiting for batches, 0 to 1
  double comm_wait_ms = 0;       // of an update: wait for the sum of the gradients after backward, on this rank
  double eta_seconds = 0;        // until schedule.total
};

// "1h 02m", "3m 05s", "42s"; "?" for what is not finite or negative.
std::string duration_text(double seconds);
// "12.3 GiB", "345 MiB".
std::string memory_text(int64_t bytes);
// The line of the log: step, samples, losses, gradient norm, learning rate, tokens/s, memory, data wait, ETA.
std::string step_line(const StepMetrics& metrics);
// A bar of `width` characters: "[####......]  40 %".
std::string progress_bar(double fraction, int64_t width);

class MetricsLog {
 public:
  // Opens PATH for appending. Lines of steps after `last_step` and events of steps after `last_event` (0 for a new run)
  // are removed first, as is an incomplete last line, so that a resumed run leaves nothing twice. Error for a file that
  // this program did not write. total_samples scales the progress bar.
  MetricsLog(const std::string& path, int64_t last_step, int64_t last_event, int64_t total_samples);
  ~MetricsLog();
  MetricsLog(const MetricsLog&) = delete;
  MetricsLog& operator=(const MetricsLog&) = delete;

  // Writes the line to the file (flushed) and to the log.
  void step(const StepMetrics& metrics);
  // A line {"event": event, "step": step, ...values}, e.g. of an evaluation. To the file only.
  void event(const std::string& event, int64_t step, const std::vector<std::pair<std::string, double>>& values);

 private:
  void append(const Json& line);

  std::string path_;
  int64_t total_samples_;
  int descriptor_ = -1;
  bool terminal_ = false;
};

}  // namespace matvlm
