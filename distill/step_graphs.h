// Steps of an update as recorded graphs where their shapes repeat. The first step of a shape is run as it is, the
// second is recorded and launched, every later one copies its inputs over those of the recording and launches it: the
// same kernels on the same values, so the same bits.
//
// Memory: whatever a step allocates comes from the allocator's step pool, recorded or not, and is free again at its
// end. As only one step runs at a time, all graphs and all plain steps share that memory; a graph keeps but its inputs
// and its results.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "autograd/parameter.h"
#include "core/allocator.h"
#include "core/device_graph.h"
#include "distill/config.h"
#include "distill/repeat_cache.h"
#include "distill/step_inputs.h"

namespace matvlm {

// As record_work(), which it is but in tests.
using WorkRecorder = std::function<std::unique_ptr<DeviceGraph>(Context& ctx, const std::function<void()>& work)>;

class StepGraphs {
 public:
  // obstacle: why steps cannot be recorded, empty where they can. most_tokens: with GraphUse::automatic steps of more
  // are not. Error for GraphUse::on with an obstacle. ctx and store outlive this object.
  StepGraphs(Context& ctx, const ParameterStore& store, GraphUse use, std::string obstacle, int64_t most_tokens,
             WorkRecorder recorder);
  ~StepGraphs();
  StepGraphs(const StepGraphs&) = delete;
  StepGraphs& operator=(const StepGraphs&) = delete;

  // Whether steps may be recorded; false from the first failure of GraphUse::automatic on.
  bool active() const { return active_; }
  bool may_record(int64_t tokens) const { return active_ && (use_ == GraphUse::on || tokens <= most_tokens_); }

  // Queues the step `work(inputs)`, f64 loss terms out, by whichever way. `work` must issue the same operations for
  // equal inputs.shape, `first` and Parameter::fresh of the store, and stay valid as long as this object. first: it
  // begins an update, so that it sets all Parameter::fresh itself. The buffers of `inputs` may be kept and overwritten
  // by later calls. Error where `work` throws; with GraphUse::on also where it cannot be recorded.
  using Work = std::function<Tensor(const StepInputs& inputs)>;
  Tensor run(const StepInputs& inputs, bool first, const Work& work);
  // Only from the step pool, never recorded.
  Tensor run_plain(const StepInputs& inputs, const Work& work);
  // A part of a step that is never recorded, called before run() is for the step: what it allocates is the step's.
  template <class Part>
  auto run_part(Part part) {
    std::optional<StepMemory> memory;
    if (active_) memory.emplace(*ctx_.allocator());
    return part();
  }

  int64_t recorded() const { return cache_.records(); }
  int64_t replayed() const { return cache_.replays(); }

 private:
  struct Entry {
    std::unique_ptr<DeviceGraph> graph;
    StepInputs inputs;
    Tensor terms;
    std::vector<bool> fresh;  // of each parameter, afterwards
  };
  using Cache = RepeatCache<std::shared_ptr<Entry>>;
  Cache::Key key_of(const StepInputs& inputs, bool first) const;
  std::vector<bool> fresh() const;
  void set_fresh(const std::vector<bool>& values) const;
  // Null where the step cannot be recorded and is to be run as it is.
  std::shared_ptr<Entry> record(const StepInputs& inputs, const Work& work);
  void stop(const std::string& reason);
  // For the allocator, when memory runs out: whether any graph was there to be dropped.
  bool drop_graphs();

  Context& ctx_;
  const ParameterStore& store_;
  GraphUse use_;
  int64_t most_tokens_;
  WorkRecorder recorder_;
  bool active_ = false;
  bool recording_ = false;
  Cache cache_;
};

}  // namespace matvlm
