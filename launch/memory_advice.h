// What a config's training takes in memory, and what would take less: for `matvlm check` and for a run that hits its
// limit.
#pragma once

#include <string>
#include <vector>

#include "distill/memory_plan.h"
#include "launch/config.h"

namespace matvlm {

// The request of a run's rows and switches for its models, but for what it recomputes (choose_recompute). `teacher`:
// none for `teach`.
MemoryRequest memory_request(const RunConfig& run, const ModelConfig* teacher, const ModelConfig& student,
                             const StudentConfig& trained);

// The layers in which a run recomputes, by train.recompute*. `auto`: the fewest with which run.memory_limit holds all
// that plan_memory() of `request` says is taken from the device: a step that has less keeps giving blocks back and
// taking others, which costs more than a few layers do. Where that is too much even in all layers, all of them, as long
// as the peak stays within the limit. The choice depends on the config, the models' sizes and the rows of the request
// alone - of a run its longest ones - and so is the same on every rank and after a resume; `request.recompute` is not
// read. Error where there are fewer layers than asked for, or where no number of them is enough.
RecomputeSpec choose_recompute(const RunConfig& run, const MemoryRequest& request);
// "none" or "mlp in 9 of 32 layers".
std::string recompute_text(const RecomputeSpec& recompute, int64_t layers);

struct MemoryChoice {
  std::string name;  // the settings, e.g. "train.recompute=mlp"
  MemoryPlan plan;
};
// The request with each kind of recomputation, then the same with optimizer.offload=cpu.
std::vector<MemoryChoice> memory_choices(const MemoryRequest& request);

// One clause: the choices that stay within `limit` bytes, or that none does.
std::string memory_advice(const MemoryRequest& request, int64_t limit);

}  // namespace matvlm
