// Ranks as threads of one process, for tests and for the rule that N ranks equal one. Each rank reduces its part of the
// elements for everyone, reading the others' memory between two barriers.
#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "core/comm.h"
#include "core/comm_host.h"
#include "core/error.h"

namespace matvlm {
namespace {

// Where the ranks meet for one sequence of collectives. There are two: blocking calls and requests do not wait for each
// other.
struct Channel {
  explicit Channel(int size)
      : calls(static_cast<size_t>(size)), inputs(static_cast<size_t>(size)), outputs(static_cast<size_t>(size)) {}
  std::condition_variable meet;
  int arrived = 0;
  int64_t generation = 0;
  // Published by each rank before the first barrier.
  std::vector<CommCall> calls;
  std::vector<const void*> inputs;
  std::vector<void*> outputs;
};

class Group {
 public:
  explicit Group(int size) : size_(size), blocking(size), requests(size) {}
  int size() const { return size_; }

  // Returns when all ranks are here. Error when a rank has left or aborted before all were.
  void enter(Channel& channel) { meet(channel, true); }
  // The same after work on each other's memory: whatever happens meanwhile, no rank may go on, and perhaps free its
  // buffers, before all are done. It ends, because all have entered and their work waits for nobody.
  void leave(Channel& channel) { meet(channel, false); }

  // From now on every barrier that is not complete throws an Error with the first reason given.
  void release(const std::string& reason) {
    const std::lock_guard lock(mutex_);
    if (reason_.empty()) reason_ = reason;
    blocking.meet.notify_all();
    requests.meet.notify_all();
  }

 private:
  void meet(Channel& channel, bool may_throw) {
    std::unique_lock lock(mutex_);
    if (may_throw && !reason_.empty()) throw Error(reason_);
    const int64_t generation = channel.generation;
    if (++channel.arrived == size_) {
      channel.arrived = 0;
      ++channel.generation;
      channel.meet.notify_all();
      return;
    }
    channel.meet.wait(lock, [&] { return channel.generation != generation || (may_throw && !reason_.empty()); });
    if (channel.generation == generation) throw Error(reason_);
  }

  int size_;
  std::mutex mutex_;
  std::string reason_;

 public:
  Channel blocking;
  Channel requests;
};

class LocalComm final : public Comm {
 public:
  LocalComm(int rank, std::shared_ptr<Group> group) : Comm(rank, group->size()), group_(std::move(group)) {}
  ~LocalComm() override { group_->release(cat("[comm] rank ", rank(), " has left")); }

  void barrier() override {
    exchange(group_->blocking, describe(CommKind::barrier, CommType::u8, 0), nullptr, nullptr, [](Channel&) {});
  }
  void abort(int code) override { group_->release(cat("[comm] rank ", rank(), " aborted with code ", code)); }

 protected:
  void run_all_reduce(CommBuffer values, CommOp op, void*) override { all_reduce(group_->blocking, values, op); }

  std::unique_ptr<CommRequest> start_all_reduce(CommBuffer values, CommOp op, void*) override {
    return worker_.submit([this, values, op] { all_reduce(group_->requests, values, op); });
  }

  void run_reduce_scatter(CommInput all, CommBuffer own, void*) override {
    const CommCall call = describe(CommKind::reduce_scatter_sum, own.type, own.count);
    // `own` may lie in `all`, but only in this rank's slice, which no other rank reads.
    exchange(group_->blocking, call, all.data, own.data, [&](Channel& channel) {
      std::vector<const void*> inputs;
      for (const void* input : channel.inputs) inputs.push_back(element(input, rank() * own.count, own.type));
      reduce_in_order(own.type, CommOp::sum, inputs, own.data, own.count);
    });
  }

  void run_all_gather(CommInput own, CommBuffer all, void*) override {
    const CommCall call = describe(CommKind::all_gather, own.type, own.count);
    const auto bytes = static_cast<size_t>(own.count * comm_type_size(own.type));
    exchange(group_->blocking, call, own.data, all.data, [&](Channel& channel) {
      if (bytes == 0) return;
      // To all others in their memory: rank r writes slice r, also where another rank's `own` is a slice of its `all`.
      for (void* output : channel.outputs) {
        std::byte* target = element(output, rank() * own.count, own.type);
        if (target != own.data) std::memcpy(target, own.data, bytes);
      }
    });
  }

  void run_broadcast(CommBuffer values, int root, void*) override {
    const CommCall call = describe(CommKind::broadcast, values.type, values.count, root);
    exchange(group_->blocking, call, values.data, values.data, [&](Channel& channel) {
      if (rank() == root || values.count == 0) return;
      std::memcpy(values.data, channel.inputs[static_cast<size_t>(root)],
                  static_cast<size_t>(values.count * comm_type_size(values.type)));
    });
  }

 private:
  // Publishes the call, runs `work` once all ranks have published the same one, returns when all have done theirs.
  void exchange(Channel& channel, const CommCall& call, const void* input, void* output,
                const std::function<void(Channel&)>& work) {
    const auto self = static_cast<size_t>(rank());
    channel.calls[self] = call;
    channel.inputs[self] = input;
    channel.outputs[self] = output;
    group_->enter(channel);
    const std::string mismatch = call_mismatch(channel.calls);
    std::exception_ptr error;
    try {
      if (mismatch.empty()) work(channel);
    } catch (...) {
      error = std::current_exception();
    }
    group_->leave(channel);
    if (!mismatch.empty()) throw Error(mismatch);
    if (error) std::rethrow_exception(error);
  }

  void all_reduce(Channel& channel, CommBuffer values, CommOp op) {
    exchange(channel, describe(kind_of(op), values.type, values.count), values.data, values.data,
             [&](Channel& ranks) { reduce_part(ranks, values, op); });
  }

  void reduce_part(Channel& channel, CommBuffer values, CommOp op) {
    const int64_t begin = part_begin(values.count, rank(), size());
    const int64_t count = part_begin(values.count, rank() + 1, size()) - begin;
    if (count == 0) return;
    std::vector<const void*> inputs;
    for (const void* input : channel.inputs) inputs.push_back(element(input, begin, values.type));
    void* result = element(values.data, begin, values.type);
    reduce_in_order(values.type, op, inputs, result, count);
    for (void* output : channel.outputs) {
      std::byte* target = element(output, begin, values.type);
      if (target != result) std::memcpy(target, result, static_cast<size_t>(count * comm_type_size(values.type)));
    }
  }

  std::shared_ptr<Group> group_;
  // Last member, so that it ends first: but its task may wait for other ranks, hence the release in the destructor's
  // body.
  CommWorker worker_;
};

}  // namespace

std::vector<std::unique_ptr<Comm>> make_local_comms(int size) {
  check(size >= 1, "[comm] found ", size, " ranks, expected at least 1");
  auto group = std::make_shared<Group>(size);
  std::vector<std::unique_ptr<Comm>> comms;
  for (int rank = 0; rank < size; ++rank) comms.push_back(std::make_unique<LocalComm>(rank, group));
  return comms;
}

void run_local_ranks(int size, const std::function<void(Comm&)>& work) {
  const std::vector<std::unique_ptr<Comm>> comms = make_local_comms(size);
  std::mutex mutex;
  std::exception_ptr first;
  std::vector<std::thread> threads;
  for (const std::unique_ptr<Comm>& comm : comms) {
    threads.emplace_back([&, rank = comm.get()] {
      try {
        work(*rank);
      } catch (...) {
        {
          const std::lock_guard lock(mutex);
          if (!first) first = std::current_exception();
        }
        rank->abort(1);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  if (first) std::rethrow_exception(first);
}

}  // namespace matvlm
