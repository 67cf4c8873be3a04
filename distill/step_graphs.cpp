#include "distill/step_graphs.h"

#include <utility>

#include "core/allocator.h"
#include "core/log.h"

namespace matvlm {
namespace {

// Bounds on what is kept: bytes of the graphs and of their inputs; keys that were seen once.
constexpr int64_t kMostBytes = 64LL << 20;
constexpr int64_t kNodeBytes = 2 << 10;  // roughly what the driver keeps of a node
constexpr size_t kMostSeen = 256;
constexpr int64_t kFreeRecords = 16;

}  // namespace

StepGraphs::StepGraphs(Context& ctx, const ParameterStore& store, GraphUse use, std::string obstacle,
                       int64_t most_tokens, WorkRecorder recorder)
    : ctx_(ctx),
      store_(store),
      use_(use),
      most_tokens_(most_tokens),
      recorder_(std::move(recorder)),
      cache_(kMostBytes, kMostSeen, kFreeRecords) {
  check(use != GraphUse::on || obstacle.empty(), "key 'train.cuda_graph': found on with ", obstacle,
        ", expected auto or off");
  active_ = use != GraphUse::off && obstacle.empty();
  // That a CPU has no CUDA graphs goes without saying.
  if (use == GraphUse::automatic && !active_ && ctx.on_gpu() && ctx.computes()) {
    log_info(cat("train.cuda_graph: not used with ", obstacle));
  }
  if (active_) ctx_.allocator()->set_reclaim([this] { return drop_graphs(); });
}

StepGraphs::~StepGraphs() {
  drop_graphs();
  ctx_.allocator()->set_reclaim({});
}

bool StepGraphs::drop_graphs() {
  // What is being recorded knows addresses, too.
  if (recording_) return false;
  const bool any = cache_.size() > 0;
  cache_.clear();
  ctx_.allocator()->keep(Allocator::Keep::nothing);
  return any;
}

void StepGraphs::stop(const std::string& reason) {
  active_ = false;
  drop_graphs();
  log_info(cat("train.cuda_graph: not used from here on: ", reason));
}

std::vector<bool> StepGraphs::fresh() const {
  std::vector<bool> out;
  for (const auto& p : store_.parameters()) out.push_back(p->fresh);
  return out;
}

void StepGraphs::set_fresh(const std::vector<bool>& values) const {
  for (size_t i = 0; i < values.size(); ++i) store_.parameters()[i]->fresh = values[i];
}

StepGraphs::Cache::Key StepGraphs::key_of(const StepInputs& inputs, bool first) const {
  Cache::Key key = inputs.shape;
  key.push_back(first ? 1 : 0);
  if (first) return key;
  for (const bool f : fresh()) key.push_back(f ? 1 : 0);
  return key;
}

Tensor StepGraphs::run_plain(const StepInputs& inputs, const Work& work) {
  if (!active_) return work(inputs);
  Tensor terms;
  {
    const StepMemory memory(*ctx_.allocator());
    terms = work(inputs);
  }
  return terms.clone(ctx_);
}

std::shared_ptr<StepGraphs::Entry> StepGraphs::record(const StepInputs& inputs, const Work& work) {
  const auto entry = std::make_shared<Entry>();
  entry->inputs = inputs;
  const std::vector<bool> before = fresh();
  const auto undo = [&] {
    recording_ = false;
    set_fresh(before);
    for (const auto& p : store_.parameters()) p->pending_uses = 0;
  };
  recording_ = true;
  try {
    entry->graph = recorder_(ctx_, [this, work, e = entry.get()] {
      const StepMemory memory(*ctx_.allocator());
      e->terms = work(e->inputs);
    });
    recording_ = false;
    return entry;
  } catch (const OutOfMemory& e) {
    undo();
    if (use_ == GraphUse::on) throw;
    stop(e.what());
  } catch (const Error& e) {
    undo();
    check(use_ != GraphUse::on, "key 'train.cuda_graph': found on, but a step could not be recorded: ", e.what());
    stop(e.what());
  }
  return nullptr;
}

Tensor StepGraphs::run(const StepInputs& inputs, bool first, const Work& work) {
  if (!active_) return work(inputs);
  if (!may_record(inputs.tokens())) return run_plain(inputs, work);
  const Cache::Key key = key_of(inputs, first);
  const Cache::Action action = cache_.next(key);
  if (action == Cache::Action::run) return run_plain(inputs, work);
  // A copy: running out of memory below drops the cache's.
  std::shared_ptr<Entry> entry;
  if (action == Cache::Action::replay) {
    entry = cache_.at(key);
    if (inputs.values.raw() != entry->inputs.values.raw()) entry->inputs.values.copy_from(ctx_, inputs.values);
    if (inputs.n_images > 0 && inputs.images.raw() != entry->inputs.images.raw()) {
      entry->inputs.images.copy_from(ctx_, inputs.images);
    }
    entry->graph->launch();
    set_fresh(entry->fresh);
  } else {
    entry = record(inputs, work);
    if (entry == nullptr) return run_plain(inputs, work);
    entry->graph->launch();
    entry->fresh = fresh();
    ctx_.allocator()->keep(Allocator::Keep::step_pool);
    const int64_t pixels = inputs.n_images > 0 ? inputs.images.numel() * dtype_size(inputs.images.dtype()) : 0;
    cache_.put(key, entry, entry->graph->nodes() * kNodeBytes + inputs.values.numel() + pixels);
  }
  return entry->terms.clone(ctx_);
}

}  // namespace matvlm
