// What a config's training takes in memory, and what would take less: for `matvlm check` and for a run that hits its
// limit.
#pragma once

#include <string>
#include <vector>

#include "distill/memory_plan.h"
#include "launch/config.h"

namespace matvlm {

// The request of a run's rows and switches for its models. `teacher`: none for `teach`.
MemoryRequest memory_request(const RunConfig& run, const ModelConfig* teacher, const ModelConfig& student,
                             const StudentConfig& trained);

struct MemoryChoice {
  std::string name;  // the settings, e.g. "train.recompute=mlp"
  MemoryPlan plan;
};
// The request with each kind of recomputation, then the same with optimizer.offload=cpu.
std::vector<MemoryChoice> memory_choices(const MemoryRequest& request);

// One clause: the choices that stay within `limit` bytes, or that none does.
std::string memory_advice(const MemoryRequest& request, int64_t limit);

}  // namespace matvlm
