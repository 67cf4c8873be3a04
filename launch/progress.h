// How far a long command is: on a terminal a bar, elsewhere a log line now and then.
#pragma once

#include <chrono>
#include <string>

#include "data/pack.h"

namespace matvlm {

// When there is something to say, and its words. Every phase of the work is timed anew, from its first report on: what
// an earlier call has done is no measure of speed.
class ProgressText {
 public:
  using Clock = std::chrono::steady_clock;

  // `terminal`: a bar every half second, which overwrites the one before it; else a line every ten seconds.
  ProgressText(bool terminal, Clock::time_point start);

  // Empty when nothing is due at `now`, which does not fall from call to call.
  std::string at(const PackProgress& progress, Clock::time_point now);

 private:
  void start_phase(const PackProgress& progress, Clock::time_point now);

  bool terminal_;
  Clock::time_point start_;  // of the phase
  Clock::time_point next_;   // when the next text is due
  PackProgress first_;       // of the phase
};

// Writes these texts to stderr.
class ProgressDisplay {
 public:
  ProgressDisplay();
  void show(const PackProgress& progress);
  // Removes the bar.
  void clear() const;

 private:
  bool terminal_;
  ProgressText text_;
};

}  // namespace matvlm
