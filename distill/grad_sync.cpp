#include "distill/grad_sync.h"

#include <span>
#include <utility>

namespace matvlm {

GradSync::GradSync(Context& ctx, Comm& comm, const ParameterStore& store, int64_t bucket_bytes)
    : ctx_(ctx), comm_(comm), store_(store), clock_(comm.size() > 1 ? make_device_clock(ctx) : nullptr) {
  // One rank has nothing to send: a GPU in a build without NCCL takes the host's communicator.
  check(comm.size() == 1 || comm.on_gpu() == ctx.on_gpu(),
        "[grad_sync] communicator and gradients are on different devices");
  check(bucket_bytes > 0, "[grad_sync] bucket size: found ", bucket_bytes, ", expected a positive number");
  const auto& parameters = store.parameters();
  bucket_of_.resize(parameters.size());
  for (size_t i = parameters.size(); i-- > 0;) {
    const Parameter& p = *parameters[i];
    const int64_t end = i + 1 < parameters.size() ? parameters[i + 1]->offset : p.offset + p.numel;
    if (buckets_.empty() || (buckets_.back().end - buckets_.back().begin) * 4 >= bucket_bytes) {
      buckets_.push_back({end, end, i + 1, i + 1, 0});
    }
    buckets_.back().begin = p.offset;
    buckets_.back().first = i;
    bucket_of_[i] = buckets_.size() - 1;
    position_[&p] = i;
  }
}

void GradSync::begin() {
  for (Bucket& bucket : buckets_) bucket.unfinished = static_cast<int64_t>(bucket.last - bucket.first);
  next_ = 0;
  active_ = true;
}

Graph::ParameterHook GradSync::hook() {
  return [this](Parameter& parameter) {
    if (!active_) return;
    const auto found = position_.find(&parameter);
    check(found != position_.end(), "[grad_sync] unknown parameter '", parameter.name, "'");
    --buckets_[bucket_of_[found->second]].unfinished;
    start_ready(false);
  };
}

void GradSync::start_ready(bool all) {
  const bool sends = comm_.size() > 1;
  while (next_ < buckets_.size() && (all || buckets_[next_].unfinished == 0)) {
    const Bucket& bucket = buckets_[next_++];
    store_.settle(ctx_, bucket.first, bucket.last);
    if (!sends) continue;
    const std::span<float> values(store_.grad().data<float>() + bucket.begin,
                                  static_cast<size_t>(bucket.end - bucket.begin));
    requests_.push_back(comm_.start_all_reduce_sum(values, ctx_.stream_handle()));
  }
}

void GradSync::finish() {
  start_ready(true);
  if (clock_) clock_->mark();
  for (const auto& request : requests_) request->wait(ctx_.stream_handle());
  if (clock_) clock_->mark();
  requests_.clear();
  active_ = false;
}

double GradSync::take_wait_seconds() {
  const std::vector<double> ms = clock_ ? clock_->read() : std::vector<double>();
  return ms.empty() ? 0.0 : ms.back() / 1e3;
}

}  // namespace matvlm
