#include "distill/step_timer.h"

namespace matvlm {

const char* step_part_name(StepPart part) {
  constexpr std::array<const char*, kStepParts> kNames = {"upload",    "vision",      "teacher",  "layer pass",
                                                          "student",   "head + loss", "backward", "communication",
                                                          "optimizer", "host"};
  return kNames[static_cast<size_t>(part)];
}

void StepTimer::enter(StepPart part) {
  clock_->mark();
  parts_.push_back(part);
}

std::vector<StepTimer::Times> StepTimer::take() {
  const std::vector<double> marks = clock_->read();
  std::vector<Times> out(begins_.size(), Times{});
  for (size_t update = 0; update < out.size(); ++update) {
    const size_t end = update + 1 < out.size() ? begins_[update + 1] : parts_.size();
    for (size_t i = begins_[update]; i < end && i + 1 < marks.size(); ++i) {
      out[update][static_cast<size_t>(parts_[i])] += marks[i + 1] - marks[i];
    }
  }
  parts_.clear();
  begins_.clear();
  return out;
}

}  // namespace matvlm
