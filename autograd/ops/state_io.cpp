#include "autograd/ops/state_io.h"

#include <vector>

#include "autograd/ops/op_checks.h"

namespace matvlm {
namespace {

void check_rows(const char* op, const char* argument, const Tensor& t, const Shape& row, int64_t rows, DType dtype,
                const Device& device) {
  Shape expected = row;
  expected.insert(expected.begin(), rows);
  check_operand(op, argument, t, expected, dtype, device);
  check_contiguous(op, argument, t);
}

// On the CPU the values are at hand; on a GPU reading them would stall the stream.
void check_slots(const char* op, const Tensor& slots, int64_t rows) {
  const int64_t* values = slots.data<int64_t>();
  std::vector<bool> used(static_cast<size_t>(rows), false);
  for (int64_t b = 0; b < slots.numel(); ++b) {
    const int64_t slot = values[b];
    check(slot >= 0 && slot < rows, "[", op, "] slots[", b, "]: found ", slot, ", expected a row below ", rows);
    check(!used[static_cast<size_t>(slot)], "[", op, "] slots[", b, "]: row ", slot, " is used twice");
    used[static_cast<size_t>(slot)] = true;
  }
}

}  // namespace

void check_state(const char* op, const StateIo& state, bool recording, const Shape& row, DType dtype, int64_t tokens,
                 int64_t batch, const Device& device) {
  check(!recording, "[", op, "] a carried state in a recording graph: no gradient goes through it");
  if (state.slots.defined()) {
    check_operand(op, "slots", state.slots, {batch}, DType::i64, device);
    check_contiguous(op, "slots", state.slots);
  }
  const auto check_carried = [&](const char* argument, const Tensor& t) {
    if (!t.defined()) return;
    const int64_t rows = t.dim(0);
    check_rows(op, argument, t, row, rows, dtype, device);
    if (!state.slots.defined()) {
      check(rows >= batch, "[", op, "] ", argument, ": found ", rows, " rows, expected one for each of ", batch,
            " sequences");
    } else if (device.type == DeviceType::cpu) {
      check_slots(op, state.slots, rows);
    }
  };
  check_carried("initial state", state.initial);
  check_carried("final state", state.final);
  if (state.every.defined()) check_rows(op, "states after every token", state.every, row, tokens, dtype, device);
}

}  // namespace matvlm
