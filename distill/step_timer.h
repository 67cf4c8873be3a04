// Where an update's time goes: the step says which part begins, the device's clock says when it got there. Costs one
// event a part and no wait; without a timer nothing at all.
#pragma once

#include <array>
#include <memory>
#include <vector>

#include "core/device_clock.h"

namespace matvlm {

// Parts of an update in their usual order. A part's time includes what the device waits for the host inside it.
enum class StepPart {
  upload,      // pictures to the device
  vision,      // tower, and the connector of the teacher
  teacher,     // language model, forward
  layer_pass,  // mixers on the teacher's inputs and the layer loss, forward and backward
  student,     // forward, with the student's own connector
  head_loss,   // both heads and the losses on them
  backward,    // from the student's final hidden states
  comm,        // what is left of the sum over ranks when backward is done, and the wait for slower ranks
  optimizer,   // gradient norm, clip, AdamW, gradients set to zero
  host,        // between the others: reading results, preparing rows
};
inline constexpr size_t kStepParts = 10;
const char* step_part_name(StepPart part);  // "layer pass"

class StepTimer {
 public:
  explicit StepTimer(Context& ctx) : clock_(make_device_clock(ctx)) {}
  // What is issued from here on belongs to `part`, until the next call.
  void enter(StepPart part);

  // What follows belongs to another update.
  void begin_update() { begins_.push_back(parts_.size()); }

  using Times = std::array<double, kStepParts>;  // ms by part
  // Times of every update begun since the last take(), each to the first enter() of the next, the last one to its own
  // last enter(), which is only the end. Waits for it.
  std::vector<Times> take();

 private:
  std::unique_ptr<DeviceClock> clock_;
  std::vector<StepPart> parts_;
  std::vector<size_t> begins_;  // in parts_
};

// The one line at the start of a part; `timer` may be null.
inline void enter_part(StepTimer* timer, StepPart part) {
  if (timer != nullptr) timer->enter(part);
}

}  // namespace matvlm
